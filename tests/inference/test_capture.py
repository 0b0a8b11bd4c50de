"""Streams: a camera on the network that breaks off is opened again."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from personlab_keras.cli import main
from personlab_keras.errors import InputError
from personlab_keras.inference import capture
from personlab_keras.inference.capture import Capture, result_path


@pytest.fixture
def camera(monkeypatch):
    """Serves streams of Motion-JPEG, one per connection, with the given numbers of frames; then
    none. Shades of the frames count on.
    """
    monkeypatch.setattr(capture, "_WAITS", (0.01,))
    lengths: list[int] = []
    shade = iter(range(0, 250, 10))

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if not lengths:
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for _ in range(lengths.pop(0)):
                picture = np.full((96, 128, 3), next(shade), np.uint8)
                data = cv2.imencode(".jpg", picture)[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def serve(*frames: int) -> str:
        lengths[:] = frames
        return f"http://127.0.0.1:{server.server_port}/live/1"

    yield serve
    server.shutdown()
    server.server_close()


def test_a_stream_that_breaks_off_is_opened_again(camera):
    opened = Capture(camera(6, 5, 4), reconnects=2)
    assert opened.is_live
    frames = list(opened.frames())
    opened.close()
    assert [number for number, _, _ in frames] == list(range(15))
    np.testing.assert_allclose([f.mean() for _, f, _ in frames], np.arange(15) * 10, atol=2)
    times = [at for _, _, at in frames]
    assert times[0] == 0
    assert times == sorted(times)
    assert opened.reconnected == 2
    assert opened.damaged == []


def test_without_reconnecting_a_stream_ends_where_it_breaks(camera):
    opened = Capture(camera(6, 5), reconnects=0)
    assert len(list(opened.frames())) == 6


def test_a_stream_is_predicted_from_the_command_line(camera, tmp_path, capsys, monkeypatch):
    from personlab_keras.inference import predict

    class Nobody:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr("personlab_keras.inference.video.decode", lambda *_, **__: [])
    stand_in = predict.Predictor(model=Nobody())
    monkeypatch.setattr(predict.Predictor, "framed_maps", lambda *_: [])
    monkeypatch.setattr(predict, "load", lambda *_: stand_in)
    source, model, out = camera(6, 5), tmp_path / "model", tmp_path / "out"
    model.mkdir()
    arguments = ["predict", source, "--model", str(model), "--out", str(out), "--reconnects", "1"]
    assert main(arguments) == 0
    assert "11 frames" in (said := capsys.readouterr().out)
    assert "reconnected 1 times" in said
    lines = (out / "127.0.0.1_live_1.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(11))
    assert main([*arguments[:-1], "-1"]) == 2
    assert "--reconnects must be at least 0" in capsys.readouterr().err


def test_stopping_ends_a_wait(camera, monkeypatch):
    monkeypatch.setattr(capture, "_WAITS", (60.0,))
    opened = Capture(camera(6))
    frames = opened.frames()
    for _ in range(6):
        next(frames)
    threading.Timer(0.1, opened.stop).start()
    began = time.monotonic()
    assert next(frames, None) is None
    assert time.monotonic() - began < 30  # not the minute of the wait


def test_names_of_results_hide_passwords():
    assert result_path("rtsp://admin:pw@10.0.0.7:554/ch1/main?token=x").stem == "10.0.0.7_ch1_main"
    assert result_path("http://cam/").stem == "cam"


def test_an_address_that_cannot_be_opened_is_refused():
    with pytest.raises(InputError, match=r"rtsp://127\.0\.0\.1:9/x: cannot be opened as a stream"):
        Capture("rtsp://127.0.0.1:9/x")
