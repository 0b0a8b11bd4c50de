"""`personlab serve` as clients meet it: one process on loopback, asked over HTTP and by a
browser.
"""

import base64
import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from personlab_keras.cli import main
from personlab_keras.config import PredictConfig
from personlab_keras.drawing import draw, person_colour
from personlab_keras.io.images import decode_image
from personlab_keras.method.person import Person, encode_mask

pytest.importorskip("ray", reason="needs the extra `serve`")

ROOT = Path(__file__).parents[2]
MAX_QUEUED = 3
MAX_BYTES = 300_000
MAX_PIXELS = 400_000
FIND_ANYBODY = [
    "decode.peak_threshold=0",
    "decode.score_threshold=0",
    "decode.keypoint_threshold=0",
    "decode.max_people=3",
]
"""The model of the tests has seen four steps: it is sure of nobody."""


@dataclass
class Server:
    process: subprocess.Popen
    port: int

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, body) of a request; JSON is read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
            if response.getheader("content-type") == "application/json":
                content = json.loads(content)
            return response.status, response.headers, content

    def people(self, body, query="", **headers):
        status, _, content = self.ask(
            "POST", f"/v1/people{query}", body, {k.replace("_", "-"): v for k, v in headers.items()}
        )
        return status, content

    def metric(self, name):
        """A value of /metrics by its name and labels as they are written there."""
        _, _, text = self.ask("GET", "/metrics")
        values = dict(
            line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#")
        )
        return float(values.get(name, 0))


def start(model, *arguments):
    settings = [f"--set={each}" for each in FIND_ANYBODY]
    limits = [f"--set=serve.{name}" for name in (
        f"max_queued={MAX_QUEUED}", f"max_bytes={MAX_BYTES}", f"max_pixels={MAX_PIXELS}", "body_timeout_s=5",
    )]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "personlab_keras.cli", "serve", "--model", model, "--port=0", *settings, *limits, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def server(model_directory):
    process = start(model_directory)
    line = process.stdout.readline()
    assert line.endswith(f": ready, serving {model_directory}\n"), process.stderr.read()
    yield Server(process, int(line.split(":")[2].partition("/")[0]))
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="module")
def predictor(model_directory):
    from personlab_keras.inference.predict import load

    return load(model_directory, FIND_ANYBODY)


def scene(scenes) -> bytes:
    return sorted((scenes / "images").iterdir())[0].read_bytes()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def huge_png(side: int = 30_000) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def form(data: bytes, name: str = "file") -> tuple[bytes, str]:
    head = f'--limit\r\nContent-Disposition: form-data; name="{name}"; filename="x.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return head.encode() + data + b"\r\n--limit--\r\n", "multipart/form-data; boundary=limit"


class Upload:
    """A request whose body is held back at its last byte."""

    def __init__(self, server, data):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=120)
        head = f"POST /v1/people HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data[:-1])
        self.last = data[-1:]

    def answer(self, finish=True):
        if finish:
            self.socket.sendall(self.last)
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        with self.socket:
            return response.status, json.loads(response.read())


def wait_until(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


# Answers


def test_it_answers_what_predict_writes(server, scenes, predictor):
    data = scene(scenes)
    status, answer = server.people(data)
    image = decode_image(data, "x")
    expected = [person.to_dict() for person in predictor(image)]
    assert status == 200
    assert expected
    assert answer == {"width": image.shape[1], "height": image.shape[0], "people": expected}
    body, kind = form(data)
    assert server.people(body, content_type=kind) == (200, answer)


def test_every_form_of_image_in_the_frame_as_it_is_seen(server):
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    )
    turned = Image.Exif()
    turned[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        status, answer = server.people(encoded(picture, kind))
        assert (status, answer["width"], answer["height"]) == (200, 90, 60), kind
    status, answer = server.people(encoded(picture, "JPEG", exif=turned))
    assert (answer["width"], answer["height"]) == (60, 90)
    assert answer["people"][0]["mask"]["size"] == [90, 60]


def test_what_a_request_may_ask_for(server, scenes):
    data = scene(scenes)
    _, whole = server.people(data)
    _, without = server.people(data, "?masks=false")
    assert all("mask" in person for person in whole["people"])
    assert without["people"]
    assert not any("mask" in person for person in without["people"])
    assert [person["keypoints"] for person in without["people"]] == [
        person["keypoints"] for person in whole["people"]
    ]
    assert server.people(data, "?score_threshold=1&masks=true")[1]["people"] == []
    for query in (
        "?masks=maybe",
        "?mask=true",
        "?score_threshold=2",
        "?score_threshold=nan",
        "?score_threshold=x",
    ):
        status, answer = server.people(data, query)
        assert status == 400, query
        assert query[1:] in answer["error"]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (8000, 10), (10, 8000), (3, 200)])
def test_odd_shapes(server, width, height):
    status, answer = server.people(encoded(Image.new("RGB", (width, height), (90, 120, 40)), "PNG"))
    assert (status, answer["width"], answer["height"]) == (200, width, height)


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", 422, "an empty file"),
        (b"no image", 422, "8 bytes that do not decode"),
        (encoded(Image.new("RGB", (50, 40)), "JPEG")[:-300], 422, "truncated"),
        (huge_png(), 422, f"at most {MAX_PIXELS} pixels. Received: 30000 x 30000"),
        (
            encoded(Image.new("RGB", (MAX_PIXELS + 1, 1)), "PNG"),
            422,
            f"Received: {MAX_PIXELS + 1} x 1",
        ),
        (bytes(MAX_BYTES + 1), 413, f"at most {MAX_BYTES} bytes"),
        # Whoever goes on sending gets the answer all the same.
        (bytes(20 * MAX_BYTES), 413, f"at most {MAX_BYTES} bytes"),
    ],
)
def test_bad_images_get_one_line(server, data, status, words):
    before = server.metric(f'personlab_requests_total{{status="{status}"}}')
    got, answer = server.people(data)
    assert got == status
    assert list(answer) == ["error"]
    assert words in answer["error"]
    assert "\n" not in answer["error"]
    assert server.metric(f'personlab_requests_total{{status="{status}"}}') == before + 1


def test_an_animated_gif_is_an_image_or_none(server):
    frames = [Image.new("RGB", (50, 40), (grey, grey, grey)) for grey in (0, 90, 180)]
    status, answer = server.people(
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    )
    # By the version of OpenCV: the first frame, or a clean refusal.
    assert (status, answer.get("width")) == (200, 50) or (status, list(answer)) == (422, ["error"])


def test_sizes_that_are_not_announced_are_counted(server):
    pieces = (bytes(50_000) for _ in range(MAX_BYTES // 50_000 + 2))
    assert server.people(pieces)[0] == 413
    body, kind = form(bytes(MAX_BYTES + 1))
    assert server.people(body, content_type=kind)[0] == 413


def test_forms_without_a_file(server):
    for body in (
        b"abc",
        b'--limit\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--limit--\r\n',
    ):
        status, answer = server.people(body, content_type="multipart/form-data; boundary=limit")
        assert status == 400
        assert answer["error"]


def test_other_addresses_and_methods(server):
    assert server.ask("GET", "/nothing")[::2] == (404, {"error": "Not Found"})
    assert server.ask("GET", "/v1/people")[0] == 405
    assert server.ask("GET", "/v1/model")[2]["keypoints"][0] == "nose"


def test_it_is_healthy_and_counts(server, scenes):
    status, _, answer = server.ask("GET", "/healthz")
    assert (status, answer) == (200, {"ready": True, "replicas": {"running": 1}})
    names = (
        "personlab_request_seconds_count",
        "personlab_batch_images_sum",
        "personlab_people_total",
    )
    before = [server.metric(name) for name in names]
    _, answer = server.people(scene(scenes))
    assert [server.metric(name) for name in names] == [
        before[0] + 1,
        before[1] + 1,
        before[2] + len(answer["people"]),
    ]
    assert server.metric("personlab_queue_depth") == 0
    assert server.metric("process_resident_memory_bytes") > 0


# The queue


def test_a_full_queue_refuses_at_once_and_loses_nothing(server, scenes):
    data = scene(scenes)
    expected = server.people(data)
    uploads = [Upload(server, data) for _ in range(MAX_QUEUED)]
    wait_until(lambda: server.metric("personlab_queue_depth") == MAX_QUEUED)
    status, headers, answer = server.ask("POST", "/v1/people", data)
    assert status == 503
    assert int(headers["Retry-After"]) > 0
    assert answer == {"error": f"the queue of {MAX_QUEUED} requests is full"}
    assert server.ask("GET", "/healthz")[0] == 200  # busy is not ill
    assert [upload.answer() for upload in uploads] == [expected] * MAX_QUEUED
    assert server.people(data) == expected


def test_who_sends_too_slowly_or_hangs_up_gives_the_place_back(server, scenes):
    gone = Upload(server, scene(scenes))
    slow = Upload(server, scene(scenes))
    wait_until(lambda: server.metric("personlab_queue_depth") == 2)
    gone.socket.close()
    status, answer = slow.answer(finish=False)
    assert (status, answer) == (408, {"error": "the image must arrive within 5 s"})
    wait_until(lambda: server.metric("personlab_queue_depth") == 0)


def test_many_at_once_are_all_answered(server, scenes):
    data = [path.read_bytes() for path in sorted((scenes / "images").iterdir())[:4]]
    alone = [server.people(each) for each in data]
    answers = {}

    def client(number):
        for turn in range(6):
            i = (number + turn) % len(data)
            status, answer = server.people(data[i])
            while status == 503:
                status, answer = server.people(data[i])
            answers[number, turn] = (i, (status, answer))

    clients = [threading.Thread(target=client, args=(number,)) for number in range(2 * MAX_QUEUED)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert len(answers) == 12 * MAX_QUEUED
    for i, answer in answers.values():
        assert answer[0] == 200
        assert [person["score"] for person in answer[1]["people"]] == pytest.approx(
            [person["score"] for person in alone[i][1]["people"]], abs=1e-3
        )


# The page


class Browser:
    """A page in headless Chromium, driven by its DevTools protocol."""

    def __init__(self, folder):
        from websockets.sync.client import connect

        program = next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
        )
        if program is None:
            pytest.skip("no Chromium here")
        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0",
             f"--user-data-dir={folder}", "--window-size=1000,900", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port_file = Path(folder) / "DevToolsActivePort"
        wait_until(lambda: port_file.exists() and "\n" in port_file.read_text())
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port_file.read_text().split()[0]}/json"
        ) as listing:
            page = next(each for each in json.load(listing) if each["type"] == "page")
        self.stack = contextlib.ExitStack()
        self.connection = self.stack.enter_context(
            connect(page["webSocketDebuggerUrl"], max_size=None)
        )
        self.number = 0
        self.thrown = []
        self.do("Runtime.enable")

    def do(self, method, **parameters):
        self.number += 1
        self.connection.send(
            json.dumps({"id": self.number, "method": method, "params": parameters})
        )
        while True:
            message = json.loads(self.connection.recv(timeout=60))
            if message.get("method") == "Runtime.exceptionThrown":
                self.thrown.append(message)
            if message.get("id") == self.number:
                return message["result"]

    def value(self, expression):
        result = self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def choose(self, path):
        root = self.do("DOM.getDocument")["root"]["nodeId"]
        node = self.do("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.do("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drop(self, path):
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.do("Input.dispatchDragEvent", type=kind, x=300, y=120, data=data)

    def said(self, word):
        wait_until(lambda: word in self.value("document.querySelector('#status').textContent"), 30)
        return self.value("document.querySelector('#status').textContent")

    def pixels(self):
        """(H, W, 3) uint8 of the canvas."""
        address = self.value("document.querySelector('#picture').toDataURL('image/png')")
        return np.asarray(
            Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")
        )

    def close(self):
        self.stack.close()
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def browser(server):
    pytest.importorskip("websockets")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(folder)
        try:
            browser.do("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
            wait_until(
                lambda: (
                    browser.value("document.readyState") == "complete"
                    and browser.value("typeof show") == "function"
                )
            )
            yield browser
            assert browser.thrown == []
        finally:
            browser.close()


def test_the_page_draws_the_people_over_the_photo(server, browser, scenes, tmp_path):
    photo = sorted((scenes / "images").iterdir())[0]
    _, answer = server.people(photo.read_bytes())
    height, width = answer["height"], answer["width"]
    browser.choose(photo)
    text = browser.said("pixels")
    count = len(answer["people"])
    assert text.startswith(
        f"{count} {'person' if count == 1 else 'people'} · {width} × {height} pixels"
    )
    scores = browser.value("[...document.querySelectorAll('#people li')].map(li => li.textContent)")
    assert scores == [
        f"Person {i + 1}: {round(100 * person['score'])} %"
        for i, person in enumerate(answer["people"])
    ]
    # Without people on it the canvas is the photo, as far as two JPEG decoders agree.
    for box in ("masks", "skeletons"):
        browser.value(f"document.querySelector('#{box}').click()")
    assert np.abs(browser.pixels().astype(int) - decode_image(photo.read_bytes(), "x")).mean() < 3
    # A broken file by the other way in: its error is shown, the old result is not.
    (tmp_path / "broken.jpg").write_bytes(photo.read_bytes()[:200])
    browser.drop(tmp_path / "broken.jpg")
    assert browser.said("truncated").startswith("broken.jpg: ")
    assert browser.value("document.querySelector('#result').hidden")
    browser.drop(photo)
    assert browser.said("pixels").split(" · ")[:2] == text.split(" · ")[:2]


def test_the_page_draws_as_the_package_does(server, browser, scenes):
    photo = sorted((scenes / "images").iterdir())[0]
    browser.choose(photo)
    browser.said("pixels")
    # What the model of the tests finds is next to nothing: two people made up, the second one below
    # the first.
    y, x = np.indices((480, 640))
    people = []
    for left, score in ((150, 0.9), (260, 0.6)):
        keypoints = np.array([(left + 37.0 * (k % 4), 60.0 + 21 * k) for k in range(17)])
        mask = ((x - left - 60) / 110) ** 2 + ((y - 230) / 200) ** 2 < 1
        people.append(Person(keypoints, np.full(17, 0.8), score, encode_mask(mask)))
    people[1].keypoints[3] = np.nan
    people[1].keypoint_scores[5] = 0.05
    answer = {"width": 640, "height": 480, "people": [person.to_dict() for person in people]}
    browser.value(f"shown = {{picture: null, answer: {json.dumps(answer)}, seconds: 0}}; draw()")
    grey = np.full((480, 640, 3), 127, np.uint8)
    drawn, expected = browser.pixels(), draw(grey, people)
    assert drawn.shape == expected.shape
    # Lines are smoothed in other ways. Joints are in the same places and areas have the same
    # colours.
    assert (np.abs(drawn.astype(int) - expected).max(axis=2) > 24).mean() < 0.06
    for person in people:
        columns, rows = (
            person.keypoints[person.found & (person.keypoint_scores > 0.1)].astype(int).T
        )
        np.testing.assert_allclose(
            drawn[rows, columns].astype(int), expected[rows, columns], atol=40
        )
    browser.value("document.querySelector('#skeletons').click()")
    nowhere = np.full((17, 2), np.nan)
    masks_alone = draw(grey, [replace(person, keypoints=nowhere) for person in people])
    assert (np.abs(browser.pixels().astype(int) - masks_alone).max(axis=2) > 24).mean() < 0.01
    browser.value("document.querySelector('#skeletons').click()")
    # Whoever is below the least score is not shown.
    browser.value("document.querySelector('#least').value = 70; draw()")
    assert browser.said("1 person")
    best_alone = draw(grey, people[:1])
    assert (np.abs(browser.pixels().astype(int) - best_alone).max(axis=2) > 24).mean() < 0.03


def test_the_page_reads_masks_and_colours_as_the_package_does(browser):
    random = np.random.default_rng(0)
    masks = [random.random((37, 23)) < share for share in (0.0, 0.02, 0.5, 1.0)]
    masks.append(np.indices((300, 500)).sum(axis=0) // 90 % 2 == 1)
    for mask in masks:
        height, width = mask.shape
        read = browser.value(f"[...sampleMask({json.dumps(encode_mask(mask))}, {width}, {height})]")
        np.testing.assert_array_equal(np.array(read).reshape(mask.shape), mask)
    for i in range(8):
        colour = browser.value(f"[...rgbOf(personColour({i}))].slice(0, 3)")
        np.testing.assert_allclose(colour, person_colour(i), atol=1)


def test_the_page_fits_a_phone_and_the_keyboard(browser):
    browser.do(
        "Emulation.setDeviceMetricsOverride",
        width=320,
        height=700,
        deviceScaleFactor=1,
        mobile=True,
    )
    assert browser.value("document.documentElement.scrollWidth") <= 320
    reached = []
    for _ in range(4):
        browser.do(
            "Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9
        )
        reached.append(browser.value("document.activeElement.id"))
    assert reached == ["file", "masks", "skeletons", "least"]


# The end


def child_named(process, name):
    """The process id of a descendant whose command begins with a name."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            fields = dict(
                line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line
            )
            parents[int(fields["Pid"])] = int(fields["PPid"])
    for pid in parents:
        ancestor = pid
        while ancestor not in (0, process.pid):
            ancestor = parents.get(ancestor, 0)
        with contextlib.suppress(OSError):
            if ancestor and Path(f"/proc/{pid}/cmdline").read_bytes().startswith(name.encode()):
                return pid
    raise AssertionError(f"no {name} below {process.pid}")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_replica_that_dies_is_replaced_and_nothing_is_lost(server, scenes):
    data = scene(scenes)
    expected = server.people(data)
    os.kill(child_named(server.process, "ray::ServeReplica"), signal.SIGKILL)
    answers = []
    clients = [
        threading.Thread(target=lambda: answers.append(server.people(data)))
        for _ in range(MAX_QUEUED)
    ]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert answers == [expected] * MAX_QUEUED
    wait_until(lambda: server.ask("GET", "/healthz")[0] == 200)


def test_a_signal_lets_accepted_requests_finish(server, scenes):
    data = scene(scenes)
    expected = server.people(data)
    uploads = [Upload(server, data) for _ in range(MAX_QUEUED)]
    wait_until(lambda: server.metric("personlab_queue_depth") == MAX_QUEUED)
    # As a terminal sends Ctrl-C: to all of its processes.
    os.killpg(server.process.pid, signal.SIGINT)

    def refused():
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
        except OSError:
            return True
        return False

    wait_until(refused)
    assert [upload.answer() for upload in uploads] == [expected] * MAX_QUEUED
    _, err = server.process.communicate(timeout=60)
    assert (server.process.returncode, err) == (0, "")


# What does not start


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "none"], "none: no personlab.json there"),
        (
            ["--model", "model", "--host", "no.such.host.invalid"],
            "no.such.host.invalid: cannot be listened on",
        ),
        (["--model", ".", "--port", "70000"], "serve.port must be 0 to 65535. Received: 70000"),
        (
            ["--model", ".", "--set", "serve.max_queued=0"],
            "serve.max_queued must be at least 1. Received: 0",
        ),
        (
            ["--model", ".", "--set", "serve.body_timeout_s=nan"],
            "serve.body_timeout_s must be positive",
        ),
    ],
)
def test_bad_usage_is_one_line_and_status_two(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "personlab.json").write_text("{}")
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("personlab serve: ")
    assert words in error
    assert error.count("\n") == 1


def test_a_port_in_use(capsys, model_directory):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", str(model_directory), "--port", str(port)]) == 2
    assert (
        f"127.0.0.1, port {port}: cannot be listened on: Address already in use"
        in capsys.readouterr().err
    )


def test_without_the_extra(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else True)
    assert main(["serve", "--model", "."]) == 2
    assert (
        "needs the extra `serve` (pip install 'personlab-keras[serve]'). Missing: ray"
        in capsys.readouterr().err
    )


# Inside a replica


class _Picky:
    """A network that fails on any input with red in it."""

    def predict_on_batch(self, inputs):
        if (inputs[..., 0] > inputs[..., 1] + 100).any():
            raise MemoryError("no room\nfor red")
        cells = tuple((side - 1) // 16 + 1 for side in inputs.shape[1:3])
        channels = {
            "heatmaps": 17,
            "short_offsets": 34,
            "mid_offsets": 64,
            "long_offsets": 34,
            "segmentation": 1,
        }
        return {
            name: np.zeros((len(inputs), *cells, count), np.float32)
            for name, count in channels.items()
        }


def test_an_image_that_fails_does_not_take_its_batch_with_it():
    from personlab_keras.inference.predict import Predictor
    from personlab_keras.serving.messages import RequestOptions
    from personlab_keras.serving.replica import Job, answer_all

    good, bad = np.full((40, 60, 3), 90, np.uint8), np.zeros((40, 60, 3), np.uint8)
    bad[..., 0] = 250
    jobs = [
        Job(good, RequestOptions()),
        Job(bad, RequestOptions()),
        Job(good, RequestOptions(masks=False)),
    ]
    answers = answer_all(Predictor(_Picky(), options=PredictConfig(longer_side=65)), jobs)
    assert [answer.status for answer in answers] == [200, 500, 200]
    assert json.loads(answers[0].body) == {"width": 60, "height": 40, "people": []}
    assert json.loads(answers[1].body) == {"error": "MemoryError: no room"}
    assert [answer.batch for answer in answers] == [3, 0, 0]
