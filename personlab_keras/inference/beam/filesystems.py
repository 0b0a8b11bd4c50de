"""Lists, reads and writes files on the local disk and on Beam's file systems (gs://, s3://,
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
"""Number of files read at a time: each takes a good part of a second to arrive from a bucket."""

_PATTERN = frozenset("*?[")
_UNFINISHED = ".part"


@dataclass(frozen=True, order=True)
class ImageFile:
    """An image file that a source names.

    Attributes:
        path: absolute path, or address.
        size: number of bytes.
    """

    path: str
    size: int


def configure(options: PipelineOptions) -> None:
    """Configures the file systems by the options of a pipeline, such as the host of HDFS, before
    the pipeline itself does so.
    """
    FileSystems.set_options(options)


def list_sources(sources: Iterable[str | Path]) -> list[ImageFile]:
    """Lists the image files that sources name, each once, sorted by path.

    Args:
        sources: local sources as for `images.list_images`, or addresses of files, of folders (the
            images directly in them) or of patterns, where `*` matches within a folder and `**`
            across folders. Folders and patterns give files with known `images.EXTENSIONS` only.

    Raises:
        InputError: a source matches no image, or Beam has no file system for it.
    """
    found: set[ImageFile] = set()
    for source in sources:
        if is_address(source):
            found |= {ImageFile(each.path, each.size_in_bytes) for each in _images_at(str(source))}
        else:
            found |= {
                ImageFile(str(path.absolute()), path.stat().st_size) for path in list_images(source)
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
    # ValueError: no such file system. BeamIOError: no such bucket, or no permission to list it.
    except (ValueError, BeamIOError) as error:
        raise InputError(
            f"{pattern}: cannot be listed: {' '.join(str(error).split())[:300]}"
        ) from None


def join_path(folder: str, *names: str) -> str:
    """Joins the path or address of a folder with names."""
    return str(FileSystems.join(folder, *names))


def names_in(folder: str) -> set[str]:
    """Names of the files directly in a folder; empty if the folder does not exist."""
    return {PurePosixPath(each.path).name for each in _match(join_path(folder, "*"))}


def read(path: str) -> bytes:
    """Reads a file.

    Raises:
        Exception: of a class that depends on the file system.
    """
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        content: bytes = file.read()
    return content


def write(path: str, content: bytes) -> None:
    """Writes a file atomically.

    Raises:
        InputError: the file cannot be written.
    """
    if not is_address(path):
        write_atomically(path, content)
        return
    folder, _, name = path.rpartition("/")
    # A runner may process a shard in two workers at once.
    temporary = join_path(folder, f".{name}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        _make_folder(folder)
        with FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(content)
        remove(path)  # HDFS does not rename over a file
        FileSystems.rename([temporary], [path])
    except (ValueError, BeamIOError, OSError) as error:
        raise InputError(
            f"{path}: cannot be written: {' '.join(str(error).split())[:300]}"
        ) from None


def _make_folder(folder: str) -> None:
    # Another worker may create it at the same time; any other error shows when the file is created.
    with contextlib.suppress(BeamIOError, OSError):
        if not FileSystems.exists(folder):
            FileSystems.mkdirs(folder)


def remove(path: str) -> None:
    """Removes a file if it exists."""
    if FileSystems.exists(path):
        FileSystems.delete([path])


@contextlib.contextmanager
def writing_in(folders: Sequence[str]) -> Iterator[None]:
    """Context manager that removes the unfinished files of killed runs from folders and, on a local
    disk, makes this process their only writer. Other file systems have no lock.

    Args:
        folders: the first one contains the others.

    Raises:
        InputError: another process is writing there.
    """
    if not is_address(folders[0]):
        with sole_writer(Path(folders[0])):
            yield
        return
    for folder in folders:
        unfinished = [each.path for each in _match(join_path(folder, f".*{_UNFINISHED}"))]
        if unfinished:
            FileSystems.delete(unfinished)
    yield


@contextlib.contextmanager
def local_copy(folder: str) -> Iterator[str]:
    """Context manager that gives a local folder with the same files: a temporary copy, or the
    folder itself if it is local.
    """
    if not is_address(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as copy:
        root = folder.rstrip("/") + "/"
        for each in _match(f"{root}**"):
            if each.path.endswith("/"):  # buckets have such entries for folders
                continue
            target = Path(copy, each.path.removeprefix(root))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read(each.path))
        yield copy
