"""Starting and stopping the server: replicas that die, signals, errors before it is ready."""

import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest
from serving_client import MAX_QUEUED, Upload, running_server, scene, wait_until

from personlab_keras.cli import main

pytestmark = pytest.mark.slow

pytest.importorskip("ray", reason="needs the extra `serve`")


@pytest.fixture(scope="module")
def server(model_directory):
    """A server of its own: these tests kill replicas and stop it."""
    with running_server(model_directory) as server:
        yield server


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
    wait_until(lambda: server.metric("personlab_uploads") == MAX_QUEUED)
    # A terminal sends Ctrl-C to all of its processes.
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "none"], "none: no personlab.json there"),
        (
            ["--model", "model", "--host", "no.such.host.invalid", "--no-auth"],
            "no.such.host.invalid: cannot listen on this host",
        ),
        (
            ["--model", ".", "--port", "70000"],
            "serve.port must be an integer from 0 to 65535. Received: 70000. Nearest: 65535",
        ),
        (
            ["--model", ".", "--set", "serve.max_queued=0"],
            "serve.max_queued must be an integer from 1 to 100000. Received: 0. Nearest: 1",
        ),
        (
            ["--model", ".", "--set", "serve.body_timeout_s=nan"],
            "serve.body_timeout_s must be a number from 0.1 to 3600. Received: 'nan'",
        ),
    ],
)
def test_invalid_usage_gets_one_line_and_status_two(
    arguments, words, capsys, tmp_path, monkeypatch
):
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
        f"127.0.0.1, port {port}: cannot listen on this address: Address already in use"
        in capsys.readouterr().err
    )


def test_without_the_extra(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else True)
    assert main(["serve", "--model", "."]) == 2
    assert (
        "needs the extra `serve` (pip install 'personlab-keras[serve]'). Missing: ray"
        in capsys.readouterr().err
    )
