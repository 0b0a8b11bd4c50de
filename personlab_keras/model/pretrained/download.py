"""Downloads files into a cache, atomically, each with a record of its address, size and
checksum.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from personlab_keras.errors import InputError
from personlab_keras.io.files import read_json, write_atomically
from personlab_keras.model.pretrained.catalogue import published
from personlab_keras.model.pretrained.tfjs import is_graph_model, shard_names, stored_bytes

RECORD_SUFFIX = ".download.json"
_TIMEOUT = 30.0
"""Seconds without data after which a download fails."""
_PIECE = 1 << 18
"""Bytes between progress reports."""

Progress = Callable[[int, int], None]


def cache_folder() -> Path:
    """The download folder: PERSONLAB_CACHE, or else the platform's cache folder."""
    if "PERSONLAB_CACHE" in os.environ:
        return Path(os.environ["PERSONLAB_CACHE"])
    if sys.platform == "win32":
        return (
            Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
            / "personlab"
            / "Cache"
        )
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "personlab"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "personlab"


def locate(source: str | Path, progress: Progress | None = None) -> tuple[Path, str]:
    """The model file of a source, downloaded if necessary, and the name of the source for the
    provenance.

    Raises:
        InputError: if there is none, or a folder holds several.
    """
    text = str(source)
    if text.startswith(("http://", "https://")):
        return fetch_network(text, progress), text
    path = Path(source)
    if path.is_dir():
        return _only_model(path), _only_model(path).name
    if path.is_file():
        if path.suffix not in (".json", ".onnx"):
            raise InputError(
                f"{path}: must be a TensorFlow.js model (.json with its shards beside it) or an ONNX file (.onnx)"
            )
        return path, path.name
    if path.suffix or path.parent != Path("."):
        raise InputError(f"{path}: no such file or folder")
    url = published(text).url
    return fetch_network(url, progress), f"{text}, {url}"


def _only_model(folder: Path) -> Path:
    found = sorted(folder.glob("*.onnx")) + [
        path for path in sorted(folder.glob("*.json")) if is_graph_model(read_json(path))
    ]
    if len(found) != 1:
        names = (
            f"holds several networks: {', '.join(path.name for path in found)}; name one"
            if found
            else "holds no network"
        )
        raise InputError(f"{folder}: {names} (a TensorFlow.js graph model or an ONNX file)")
    return found[0]


def fetch_network(url: str, progress: Progress | None = None) -> Path:
    """Downloads a model file and the shards that it names; returns its path in the cache.

    Args:
        url: http or https address of a tfjs model JSON or an ONNX file.
        progress: called with (bytes of weights received, total bytes, 0 if unknown).

    Raises:
        InputError: if the download fails, or a cached file has changed since.
    """
    named = url.partition("?")[0].endswith(".json")
    path = _fetch(
        url,
        None if named else progress,
        what=f"{url}, and the shards that it names," if named else url,
    )
    if not named or not is_graph_model(model := read_json(path)):
        return path
    names, total, before = shard_names(model, str(path)), stored_bytes(model, str(path)), 0
    for name in names:

        def report(received: int, _: int, before: int = before) -> None:
            if progress:
                progress(before + received, total)

        what = f"{url} and its {len(names)} shards ({names[0]}, ...)"
        before += _fetch(urllib.parse.urljoin(url, name), report, what).stat().st_size
    return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, progress: Progress | None, what: str) -> Path:
    path = _cached(url)
    record = path.with_name(path.name + RECORD_SUFFIX)
    if path.is_file() and record.is_file():
        _verify(path, record)
        return path
    try:
        content = _received(url, progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{url}: cannot be downloaded ({' '.join(str(reason).split())}). Download {what} on a machine with a network into one "
            "folder and run `personlab import-weights FOLDER --out DIR`"
        ) from None
    received = {
        "url": url,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "received": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_atomically(path, content)
    write_atomically(record, (json.dumps(received, indent=1) + "\n").encode())
    return path


def _received(url: str, progress: Progress | None) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
        total = int(response.headers.get("Content-Length") or 0)
        pieces, count = [], 0
        while piece := response.read(_PIECE):
            pieces.append(piece)
            count += len(piece)
            if progress:
                progress(count, total)
    if total and count != total:
        raise ConnectionError(f"cut off after {count} of {total} bytes")
    return b"".join(pieces)


def _cached(url: str) -> Path:
    """The path of an address in the cache, made of its host and path.

    Raises:
        InputError: if the address is not http or https, or names no file.
    """
    parts = urllib.parse.urlsplit(url)
    names = [name for name in PurePosixPath(urllib.parse.unquote(parts.path)).parts if name != "/"]
    if parts.scheme not in ("http", "https") or not parts.hostname or not names or ".." in names:
        raise InputError(f"{url}: an address must be http(s)://HOST/PATH/FILE")
    return cache_folder().joinpath(
        *(urllib.parse.quote(name, safe=" ") for name in (parts.netloc, *names))
    )


def _verify(path: Path, record: Path) -> None:
    """Refuses a file that has changed since its download, before anything is read from it."""
    known = read_json(record)
    found = {"size": path.stat().st_size, "sha256": sha256(path)}
    for name, value in found.items():
        if known.get(name) != value:
            raise InputError(
                f"{path}: damaged: {name} must be {known.get(name)}, as when it was downloaded. Received: {value}. "
                "Delete it to download it again"
            )
