"""Files by their address: on a disk, or wherever else Beam's file systems reach (gs://, s3://,
hdfs://).
"""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from personlab_keras.errors import InputError
from personlab_keras.inference.beam import is_address
from personlab_keras.io.files import sole_writer, write_atomically
from personlab_keras.io.images import EXTENSIONS, list_images

READERS = 8
"""Files that are read at a time: from a bucket each is a good part of a second on its way."""

_PATTERN = frozenset("*?[")
_UNFINISHED = ".part"


@dataclass(frozen=True, order=True)
class Listed:
    """An image file that was found.

    Attributes:
        path: absolute, or an address.
        size: bytes.
    """

    path: str
    size: int


def set_options(options: PipelineOptions) -> None:
    """Tells the file systems what the options of a pipeline say of them, such as where HDFS is, as
    the pipeline itself does later.
    """
    FileSystems.set_options(options)


def list_sources(sources: Iterable[str | Path]) -> list[Listed]:
    """The image files meant by sources, each once, by path.

    On a disk a source is what it is for `images.list_images`. An address is that of a file, of a
    folder (the images directly in it), or a pattern, where `*` stays within a folder and `**` does
    not. A pattern and a folder give files of known `images.EXTENSIONS` only.

    Raises:
        InputError: a source matches nothing, or is of a file system that Beam does not know here.
    """
    found: set[Listed] = set()
    for source in sources:
        if is_address(source):
            found |= {Listed(each.path, each.size_in_bytes) for each in _images_at(str(source))}
        else:
            found |= {
                Listed(str(path.absolute()), path.stat().st_size) for path in list_images(source)
            }
    return sorted(found)


def _images_at(source: str) -> list[FileMetadata]:
    if _PATTERN & set(source):
        found = _images_among(_match(source))
    else:
        found = _images_among(_match(f"{source.rstrip('/')}/*")) or (
            [] if source.endswith("/") else _match(source)
        )
    if not found:
        raise InputError(
            f"{source}: must be an image, or match images ({', '.join(sorted(EXTENSIONS))}). Received: no match"
        )
    return found


def _images_among(found: Iterable[FileMetadata]) -> list[FileMetadata]:
    return [each for each in found if PurePosixPath(each.path).suffix.lower() in EXTENSIONS]


def _match(pattern: str) -> list[FileMetadata]:
    try:
        return list(FileSystems.match([pattern])[0].metadata_list)
    except (
        ValueError,
        BeamIOError,
    ) as error:  # no such file system; no such bucket, or no leave to list it
        raise InputError(
            f"{pattern}: cannot be listed: {' '.join(str(error).split())[:300]}"
        ) from None


def join_path(folder: str, *names: str) -> str:
    """The address of a file in a folder."""
    return str(FileSystems.join(folder, *names))


def names_in(folder: str) -> set[str]:
    """Names of the files directly in a folder; none where there is no such folder."""
    return {PurePosixPath(each.path).name for each in _match(join_path(folder, "*"))}


def read(path: str) -> bytes:
    """The content of a file.

    Raises:
        Exception: what the file system raises, a class of its own on each.
    """
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        content: bytes = file.read()
    return content


def write(path: str, content: bytes) -> None:
    """Writes a file that appears whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    if not is_address(path):
        write_atomically(path, content)
        return
    folder, _, name = path.rpartition("/")
    # A runner may have two workers at the same shard.
    beside = join_path(folder, f".{name}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        _make_folder(folder)
        with FileSystems.create(beside, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(content)
        remove(path)  # HDFS does not rename over a file
        FileSystems.rename([beside], [path])
    except (ValueError, BeamIOError, OSError) as error:
        raise InputError(
            f"{path}: cannot be written: {' '.join(str(error).split())[:300]}"
        ) from None


def _make_folder(folder: str) -> None:
    with contextlib.suppress(
        BeamIOError, OSError
    ):  # it is there, by now perhaps; if not, what follows says so
        if not FileSystems.exists(folder):
            FileSystems.mkdirs(folder)


def remove(path: str) -> None:
    """Removes a file, if it is there."""
    if FileSystems.exists(path):
        FileSystems.delete([path])


@contextlib.contextmanager
def writing_in(folders: Sequence[str]) -> Iterator[None]:
    """Clears folders of what killed runs left unfinished. On a disk no other process can be the
    writer meanwhile; elsewhere nobody watches over that.

    Args:
        folders: the first of them holds the others.

    Raises:
        InputError: another process writes there.
    """
    if not is_address(folders[0]):
        with sole_writer(Path(folders[0])):
            yield
        return
    for folder in folders:
        left = [each.path for each in _match(join_path(folder, f".*{_UNFINISHED}"))]
        if left:
            FileSystems.delete(left)
    yield


@contextlib.contextmanager
def on_disk(folder: str) -> Iterator[str]:
    """A folder on a disk with the same files, which need not be there afterwards: a folder on a
    disk is that itself.
    """
    if not is_address(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as copy:
        root = folder.rstrip("/") + "/"
        for each in _match(f"{root}**"):
            if each.path.endswith("/"):  # what stands for a folder in a bucket
                continue
            target = Path(copy, each.path.removeprefix(root))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read(each.path))
        yield copy
