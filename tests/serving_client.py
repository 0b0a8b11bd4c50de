"""A server in a process of its own and a client of it, for the tests of serving."""

import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
MAX_QUEUED = 3
MAX_BYTES = 300_000
MAX_PIXELS = 400_000
FIND_ANYBODY = [
    "decode.peak_threshold=0",
    "decode.score_threshold=0",
    "decode.keypoint_threshold=0",
    "decode.max_people=3",
    "decode.segmentation_threshold=0",
    "decode.embedding_threshold=100",
]
"""The test model was trained for four steps, so its scores are low."""


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
        """A value of /metrics by its name and labels as written there."""
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


@contextlib.contextmanager
def running_server(model):
    """A server of a model directory, ready to answer."""
    process = start(model)
    line = process.stdout.readline()
    assert line.endswith(f": ready, serving {model}\n"), process.stderr.read()
    yield Server(process, int(line.split(":")[2].partition("/")[0]))
    process.terminate()
    process.wait(60)


def scene(scenes) -> bytes:
    return sorted((scenes / "images").iterdir())[0].read_bytes()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def form(data: bytes, name: str = "file") -> tuple[bytes, str]:
    head = f'--limit\r\nContent-Disposition: form-data; name="{name}"; filename="x.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return head.encode() + data + b"\r\n--limit--\r\n", "multipart/form-data; boundary=limit"


class Upload:
    """A request whose body is held back at its last byte."""

    def __init__(self, server, data):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=120)
        head = f"POST /v1/people HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
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
