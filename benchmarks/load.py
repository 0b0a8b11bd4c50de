"""What `personlab serve` bears: finds its capacity, then asks for half and for twice as much, on
loopback.

    python benchmarks/load.py --model exported --images photos --set predict.longer_side=401

The capacity is what a few clients get that each ask again as soon as they are answered. Then
requests come at a fixed rate, whether or not earlier ones are answered. For each stage: requests
per second, percentiles, statuses, failures, and the resident memory of the server and all of its
processes. At last, a few clients ask alone and then beside many that send a byte a second. The
client's counts are held against the server's own: a request that one of them knows and the other
does not is lost. Exits with status 1 if any is, or if anything but 200 and, beyond capacity, 503
was answered."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np

from personlab_keras.io.images import list_images

IN_FLIGHT = 2000
"""Requests that the client has under way at most."""


@dataclass
class Tally:
    """Answers of a stage: seconds by status, and what failed without one."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    without_retry_after: int = 0

    def counts(self) -> dict[int, int]:
        return {status: len(times) for status, times in sorted(self.seconds.items())}


class Client:
    """Asks a server for the people of images, in turn."""

    def __init__(
        self, address: str, images: Sequence[bytes], session: aiohttp.ClientSession
    ) -> None:
        self.address, self.session = address, session
        self.images: Iterator[bytes] = cycle(images)

    async def ask(self, tally: Tally) -> int:
        """One request; its status, or 0 where there was no answer."""
        start = time.perf_counter()
        try:
            async with self.session.post(
                f"{self.address}v1/people", data=next(self.images)
            ) as response:
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            tally.failures[type(error).__name__] += 1
            return 0
        if response.status == 200 and not {"width", "height", "people"} <= answer.keys():
            tally.failures["no people in the answer"] += 1
        tally.without_retry_after += (
            response.status == 503 and "Retry-After" not in response.headers
        )
        tally.seconds.setdefault(response.status, []).append(time.perf_counter() - start)
        return response.status

    async def counted(self) -> Counter[int]:
        """How many requests the server says it has answered, by status."""
        async with self.session.get(f"{self.address}metrics") as response:
            text = await response.text()
        found = re.findall(
            r'^personlab_requests_total\{status="(\d+)"\} (\S+)$', text, re.MULTILINE
        )
        return Counter({int(status): int(float(count)) for status, count in found})


async def closed_loop(client: Client, clients: int, seconds: float) -> Tally:
    """Clients that ask again as soon as they are answered."""
    tally, end = Tally(), time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < end:
            await client.ask(tally)

    await asyncio.gather(*(one() for _ in range(clients)))
    return tally


async def open_loop(client: Client, rate: float, seconds: float) -> Tally:
    """Requests at a rate, in a Poisson process, whatever becomes of them."""
    tally, random = Tally(), np.random.default_rng(0)
    under_way: set[asyncio.Task[int]] = set()
    start = due = time.perf_counter()
    while due < start + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if len(under_way) < IN_FLIGHT:
            task = asyncio.create_task(client.ask(tally))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        else:
            tally.failures["the client had too many under way"] += 1
        due += random.exponential(1 / rate)
    await asyncio.gather(*under_way)
    return tally


def resident_memory(root: int) -> int:
    """Bytes of resident memory of a process and all below it; what they share is counted for
    each.
    """
    parents, resident = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(
                line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line
            )
        except OSError:  # it has ended meanwhile
            continue
        pid = int(fields["Pid"])
        parents[pid] = int(fields["PPid"])
        resident[pid] = int(fields.get("VmRSS", "0 kB").split()[0]) * 1024

    def below(pid: int) -> bool:
        while pid not in (0, root):
            pid = parents.get(pid, 0)
        return pid == root

    return sum(size for pid, size in resident.items() if below(pid))


async def watched(root: int, stage: Awaitable[Tally]) -> tuple[Tally, dict[str, float]]:
    """A stage and the memory in GB at its start and end and at its most, looked at every second."""
    sizes = [resident_memory(root)]

    async def watch() -> None:
        while True:
            await asyncio.sleep(1)
            sizes.append(resident_memory(root))

    watcher = asyncio.create_task(watch())
    try:
        tally = await stage
    finally:
        watcher.cancel()
    sizes.append(resident_memory(root))
    return tally, {
        name: round(size / 1e9, 3)
        for name, size in (("start", sizes[0]), ("end", sizes[-1]), ("most", max(sizes)))
    }


async def measure(
    process: subprocess.Popen[str],
    address: str,
    images: Sequence[bytes],
    options: argparse.Namespace,
) -> dict:
    """All stages; {name: figures}."""
    # Shorter than the server's own: a connection must not be closed while a request is on its way.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    timeout = aiohttp.ClientTimeout(total=120)
    report: dict[str, dict] = {}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        client = Client(address, images, session)

        async def stage(name: str, run: Callable[[], Awaitable[Tally]]) -> dict:
            before, start = await client.counted(), time.perf_counter()
            tally, memory = await watched(process.pid, run())
            lasted = time.perf_counter() - start
            theirs, ours = await client.counted() - before, Counter(tally.counts())
            for status in (408, 499):  # of the slow clients, which count nothing
                theirs.pop(status, None)
            figures = {
                "seconds": round(lasted, 1),
                "people_per_second": round(len(tally.seconds.get(200, [])) / lasted, 2),
                "statuses": tally.counts(),
                "lost": ((theirs - ours) + (ours - theirs)).total(),
                "failures": dict(tally.failures),
                "503_without_retry_after": tally.without_retry_after,
                "ms": {
                    status: percentiles(times) for status, times in sorted(tally.seconds.items())
                },
                "memory_gb": memory,
                "alive": process.poll() is None,
            }
            report[name] = figures
            print(name, json.dumps(figures), flush=True)
            return figures

        await closed_loop(client, options.clients, options.warm)
        found = await stage("capacity", lambda: closed_loop(client, options.clients, options.find))
        capacity = found["people_per_second"]
        for name, share in (("half", 0.5), ("twice", 2.0)):
            await stage(
                name, lambda share=share: open_loop(client, share * capacity, options.seconds)
            )
            report[name]["asked_per_second"] = round(share * capacity, 2)
        await stage("good alone", lambda: closed_loop(client, options.good, options.find))
        async with slow_clients(address, options.slow):
            await stage("good beside slow", lambda: closed_loop(client, options.good, options.find))
        if options.small:
            report["small"] = await many_small(process.pid, address, session, options.small)
            print("small", json.dumps(report["small"]), flush=True)
    return report


@contextlib.asynccontextmanager
async def slow_clients(address: str, count: int) -> AsyncIterator[None]:
    """Connections from another address of this machine that send a byte a second: half of them the
    head of a request, half the body. Each one that is closed comes back.
    """
    port = int(address.rpartition(":")[2].strip("/"))
    heads = b"POST /v1/people HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 10_000
    bodies = (
        b"POST /v1/people HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
        + b"x" * 10_000
    )

    async def one(text: bytes, at_once: int) -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(
                    "127.0.0.1", port, local_addr=("127.0.0.2", 0)
                )
                writer.write(text[:at_once])
                for byte in text[at_once:]:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(1)
            await asyncio.sleep(0.1)

    tasks = [
        asyncio.create_task(one(*((heads, 40) if i % 2 else (bodies, 90)))) for i in range(count)
    ]
    await asyncio.sleep(2)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def many_small(
    pid: int, address: str, session: aiohttp.ClientSession, count: int
) -> dict[str, Any]:
    """Requests with a tiny image, eight at a time: memory and open files of the HTTP process at
    the start, in the middle and at the end.
    """
    done, image = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))
    assert done
    statuses: Counter[int] = Counter()
    samples = []

    def sample() -> None:
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        samples.append(
            {
                "requests": statuses.total(),
                "memory_gb": round(resident_memory(pid) / 1e9, 3),
                "files": files,
            }
        )
        print(samples[-1], flush=True)

    async def some(number: int) -> None:
        for _ in range(number):
            async with session.post(f"{address}v1/people", data=image.tobytes()) as response:
                await response.read()
                statuses[response.status] += 1

    start = time.perf_counter()
    sample()
    for _ in range(10):
        await asyncio.gather(*(some(count // 80) for _ in range(8)))
        sample()
    lasted = time.perf_counter() - start
    return {"statuses": dict(statuses), "seconds": round(lasted, 1), "samples": samples}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {
        f"p{share}": round(1000 * float(np.percentile(seconds, share)), 1) for share in (50, 99)
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--images", required=True, help="folder of images to ask about, in turn")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="a setting of the server",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=300,
        help="at half and at twice the capacity, each (default: 300)",
    )
    parser.add_argument(
        "--find",
        type=float,
        default=30,
        help="seconds in which the capacity is found (default: 30)",
    )
    parser.add_argument(
        "--warm",
        type=float,
        default=10,
        help="seconds of requests before any is counted (default: 10)",
    )
    parser.add_argument(
        "--clients",
        type=int,
        default=16,
        help="clients that find the capacity; fewer than serve.max_queued",
    )
    parser.add_argument(
        "--good", type=int, default=8, help="clients that ask beside the slow ones (default: 8)"
    )
    parser.add_argument(
        "--slow", type=int, default=64, help="clients that send a byte a second (default: 64)"
    )
    parser.add_argument(
        "--small", type=int, default=0, help="tiny requests in a row at the end (default: 0)"
    )
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    options = parser.parse_args()
    images = [path.read_bytes() for path in list_images(options.images)]
    settings = [f"--set={each}" for each in options.set]
    command = [
        sys.executable,
        "-m",
        "personlab_keras.cli",
        "serve",
        "--model",
        options.model,
        "--port=0",
        *settings,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        print(line, end="", flush=True)
        if not line:
            return process.wait()
        try:
            report = asyncio.run(measure(process, line.partition(": ready")[0], images, options))
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(120)
    report["exit_status"] = status
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))
    stages = [
        report[name] for name in ("capacity", "half", "twice", "good alone", "good beside slow")
    ]
    clean = all(
        not each["lost"] and not each["failures"] and not each["503_without_retry_after"]
        for each in stages
    )
    expected = all(
        set(each["statuses"]) <= ({200, 503} if each is report["twice"] else {200})
        for each in stages
    )
    print(f"exit status {status}; {'nothing lost' if clean and expected else 'NOT CLEAN'}")
    return 0 if clean and expected and status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
