"""Who may ask the server, how many at once, and for how long: with a function in place of the
network, in this process.
"""

import asyncio
import contextlib
import datetime
import http.client
import json
import socket
import ssl
import threading
from dataclasses import dataclass, replace

import pytest

pytest.importorskip("ray", reason="needs the extra `serve`")

import uvicorn

from personlab_keras.cli import main
from personlab_keras.config import ServeConfig
from personlab_keras.errors import InputError
from personlab_keras.serving.app import Metrics, build_app, build_metrics_app
from personlab_keras.serving.connections import limited_protocol
from personlab_keras.serving.guard import is_loopback, read_keys
from personlab_keras.serving.messages import Answer

KEY = "0123456789abcdef"
FOUND = b'{"width": 1, "height": 1, "people": []}'


@dataclass
class Running:
    port: int
    release: threading.Event
    context: ssl.SSLContext | None = None

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return self.context.wrap_socket(connection) if self.context else connection

    def ask(self, method="POST", path="/v1/people", body=b"image", **headers):
        """(status, headers, content)."""
        with contextlib.closing(self.connect()) as connection:
            given = {"Host": "127.0.0.1", "Content-Length": len(body)} | {
                name.replace("_", "-"): value for name, value in headers.items()
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
            connection.sendall(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, dict(response.getheaders()), response.read()

    def begin(self, text):
        """A connection on which something was sent."""
        connection = self.connect()
        connection.sendall(text)
        return connection


@contextlib.contextmanager
def running(keys=(), waits=False, elsewhere=False, context=None, **settings):
    """A server whose network answers at once, or once it is released."""
    config = replace(ServeConfig(), **settings)
    release = threading.Event()
    metrics = Metrics()

    async def find(data, options):
        while waits and not release.is_set():
            await asyncio.sleep(0.01)
        return Answer(200, FOUND, people=0, batch=1)

    if elsewhere:
        app = build_metrics_app(metrics)
    else:
        own = None if config.metrics_port is None else metrics
        app = build_app(find, lambda: {"ready": True}, {"masks": True}, config, keys, own)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=limited_protocol(config),
            log_level="error",
            lifespan="off",
            ssl_certfile=config.tls_certificate,
            ssl_keyfile=config.tls_key,
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        try:
            yield Running(listener.getsockname()[1], release, context)
        finally:
            release.set()
            server.should_exit = True
            thread.join()


def test_without_a_key_only_the_page_and_the_health(tmp_path):
    with running(keys=[KEY.encode(), b"another key of somebody"]) as server:
        assert server.ask("GET", "/")[0] == server.ask("GET", "/healthz")[0] == 200
        for path in ("/v1/people", "/v1/model", "/metrics", "/nowhere"):
            status, headers, body = server.ask("GET", path)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert "API key" in json.loads(body)["error"]
        for wrong in (KEY[:-1], KEY + "0", "", "ö"):
            assert server.ask(Authorization=f"Bearer {wrong}")[0] == 401
        assert server.ask(Authorization=f"Basic {KEY}")[0] == 401
        assert server.ask(Authorization=f"Bearer {KEY}")[::2] == (200, FOUND)
        assert server.ask(X_API_Key="another key of somebody")[0] == 200


def test_the_host_must_be_this_machine():
    with running() as server:
        for name in ("localhost", "127.0.0.1:8000", "[::1]:80", "LOCALHOST:1"):
            assert server.ask(Host=name)[0] == 200
        for name in ("evil.example", "127.0.0.1.evil.example", "evil.example:8000", ""):
            status, _, body = server.ask(Host=name)
            assert status == 403, name
            assert "serve.hosts" in json.loads(body)["error"]
    with running(host="0.0.0.0") as server:
        assert server.ask(Host="anything.example")[0] == 200
    with running(host="0.0.0.0", hosts=("photos.example",)) as server:
        assert server.ask(Host="photos.example:443")[0] == 200
        assert server.ask(Host="evil.example")[0] == 403


def test_pages_of_other_sites_need_permission():
    site = "https://site.example"
    with running() as server:
        assert (
            server.ask(Origin=f"http://127.0.0.1:{server.port}", Host=f"127.0.0.1:{server.port}")[0]
            == 200
        )
        status, headers, body = server.ask(Origin=site)
        assert (status, "access-control-allow-origin" in headers) == (403, False)
        assert "serve.origins" in json.loads(body)["error"]
    with running(origins=(site,), keys=[KEY.encode()]) as server:
        status, headers, _ = server.ask(Origin=site, Authorization=f"Bearer {KEY}")
        assert (status, headers["access-control-allow-origin"]) == (200, site)
        status, headers, _ = server.ask(
            "OPTIONS",
            body=b"",
            Origin=site,
            Access_Control_Request_Method="POST",
            Access_Control_Request_Headers="Authorization",
        )
        assert (status, headers["access-control-allow-origin"]) == (200, site)
        assert server.ask(Origin="https://evil.example", Authorization=f"Bearer {KEY}")[0] == 403


def test_unfinished_heads_and_bodies_leave_the_queue_to_others():
    with running(max_queued=1, head_timeout_s=0.2, body_timeout_s=0.2) as server:
        heads = [server.begin(b"POST /v1/people HTTP/1.1\r\nHost: lo") for _ in range(30)]
        bodies = [
            server.begin(
                b"POST /v1/people HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"
            )
            for _ in range(30)
        ]
        assert server.ask()[::2] == (200, FOUND)
        for connection in heads:
            assert connection.recv(100) == b""
        for connection in bodies:
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        for connection in (*heads, *bodies):
            connection.close()


def test_a_second_head_has_its_own_time():
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running(head_timeout_s=0.2) as server, server.begin(whole) as connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        response.read()
        connection.sendall(whole[:20])
        assert connection.recv(100) == b""


def test_a_full_queue_refuses_at_once_and_loses_nothing():
    with running(waits=True, max_queued=2) as server:
        answers = []
        clients = [
            threading.Thread(target=lambda: answers.append(server.ask()[::2])) for _ in range(2)
        ]
        for client in clients:
            client.start()
        while b"personlab_queue_depth 2.0" not in server.ask("GET", "/metrics", b"")[2]:
            pass
        status, headers, body = server.ask()
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(body) == {"error": "the queue of 2 requests is full"}
        assert server.ask("GET", "/healthz", b"")[0] == 200  # a full queue is healthy
        server.release.set()
        for client in clients:
            client.join()
        assert answers == [(200, FOUND)] * 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_per_client": 3}, "this address has 3 connections"),
        ({"max_connections": 3}, "the server has 3 connections"),
    ],
)
def test_more_connections_than_allowed(settings, words):
    with running(**settings) as server:
        held = [server.begin(b"GET") for _ in range(3)]
        with server.connect() as refused:
            text = b"".join(iter(lambda: refused.recv(1000), b"")).decode()
        assert text.startswith("HTTP/1.1 503 ")
        assert "Retry-After: 1" in text
        assert words in text
        held.pop().close()
        status = 503
        while status == 503:  # until the server has seen that one is closed
            with contextlib.suppress(ConnectionError):
                status = server.ask("GET", "/healthz", b"")[0]
        assert status == 200
        for connection in held:
            connection.close()


def test_metrics_of_their_own_and_no_page():
    with running(metrics_port=0, page=False) as server:
        assert server.ask("GET", "/metrics", b"")[0] == 404
        assert server.ask("GET", "/", b"")[0] == 404
    with running(elsewhere=True, keys=[KEY.encode()]) as server:
        assert b"personlab_requests" in server.ask("GET", "/metrics", b"")[2]
        assert server.ask("GET", "/v1/model", b"")[0] == 404


def certificate(folder):
    """Files of a certificate of localhost and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


def test_tls(tmp_path):
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with running(tls_certificate=cert, tls_key=key, context=context) as server:
        assert server.ask()[::2] == (200, FOUND)


def test_loopback():
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "192.168.0.1", "photos.example", ""):
        assert not is_loopback(host)


def test_keys_come_from_a_file_and_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n\n  {KEY}x  \n")
    assert read_keys(file) == (KEY.encode(), f"{KEY}x".encode())
    monkeypatch.setenv("PERSONLAB_API_KEY", "z" * 20)
    assert read_keys(None) == (b"z" * 20,)
    for text, words in (("", "must hold an API key"), ("short", "at least 16 characters")):
        file.write_text(text)
        with pytest.raises(InputError, match=words):
            read_keys(file)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "Give --api-key FILE or PERSONLAB_API_KEY, or say --no-auth"),
        (["--host", "::"], "other machines could use the server"),
        (["--api-key", "none"], "none: no such file"),
        (["--set", "serve.tls_key=k.pem"], "must both be given, or none"),
        (
            ["--set", "serve.tls_key=k.pem", "--set", "serve.tls_certificate=c.pem"],
            "c.pem: no such file",
        ),
    ],
)
def test_what_is_not_safe_is_refused(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("personlab_keras.serving.server.description_file", lambda folder: None)
    assert main(["serve", "--model", ".", "--port", "0", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
