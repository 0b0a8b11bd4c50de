"""Files in buckets (gs://, s3://) under the names that `pathlib.Path` has for the same, by fsspec.

A bucket is no disk: an object appears complete or not at all, nothing is appended to or renamed,
and a folder is no more than the beginning of a name.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from personlab_keras.errors import InputError

_ADDRESS = re.compile(r"(gs|s3):/+([^/].*)")  # `Path` has collapsed the slashes of an address
_PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
"""The package and the extra by scheme."""
_LOG_IN = {
    "gs": "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}
_NO_CREDENTIALS = ("CredentialsError", "CredentialRetrievalError", "RefreshError", "TokenError")
_NO_NETWORK = ("ConnectionError", "ConnectorError", "TimeoutError", "ConnectTimeoutError")
_MISSING = (404, "404", "NoSuchBucket", "NoSuchKey")
_FORBIDDEN = (401, 403, "401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")


def is_bucket(path: object) -> bool:
    """Whether a path is an address in a bucket that this project reads and writes.

    >>> is_bucket("gs://bucket/records"), is_bucket("records"), is_bucket("hdfs://host/records")
    (True, False, False)
    """
    return _ADDRESS.fullmatch(str(path)) is not None


class BucketPath:
    """A file or a folder in a bucket. Methods are those of `pathlib.Path`; each raises

    - `FileNotFoundError`: there is no such file to read or delete;
    - `InputError`, one line: no credentials, no permission, no such bucket, no network, or the
      package that the address needs is missing.

    >>> folder = BucketPath("s3://bucket/records/")
    >>> str(folder / "meta.json"), (folder / "a.tfrecord").suffix, str(folder.parent)
    ('s3://bucket/records/meta.json', '.tfrecord', 's3://bucket')
    """

    def __init__(self, address: object) -> None:
        found = _ADDRESS.fullmatch(str(address))
        if found is None:
            raise InputError(f"{address}: must be an address such as gs://bucket/folder")
        self._scheme, self._key = found[1], re.sub("/+", "/", found[2]).rstrip("/")

    def __str__(self) -> str:
        return f"{self._scheme}://{self._key}"

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> BucketPath:
        return BucketPath(f"{self}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self._key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return Path(self.name).suffix

    @property
    def parent(self) -> BucketPath:
        """The folder; of a bucket, itself."""
        return BucketPath(f"{self._scheme}://{self._key.rpartition('/')[0] or self._key}")

    def sizes(self) -> dict[str, int]:
        """Bytes of the files directly in this folder, by name; empty where there is no folder."""
        return {path.name: size for path, size in self._below(1) if path.parent == self}

    def glob(self, pattern: str) -> list[BucketPath]:
        """The files directly in this folder whose names match a pattern, by name."""
        return [self / name for name in sorted(self.sizes()) if fnmatch.fnmatchcase(name, pattern)]

    def exists(self) -> bool:
        """Whether there is such a file, or a file below it."""
        return self.is_file() or any(True for _ in self._below(None))

    def is_file(self) -> bool:
        """Whether there is such a file."""
        try:
            with self._named("read"):
                return bool(_system(self._scheme).info(self._key)["type"] == "file")
        except FileNotFoundError:
            return False

    def read_bytes(self) -> bytes:
        """The content of the file."""
        with self._named("read"):
            content: bytes = _system(self._scheme).cat_file(self._key)
        return content

    def size(self) -> int:
        """Bytes of the file."""
        with self._named("read"):
            return int(_system(self._scheme).info(self._key)["size"])

    def read_range(self, at: int, length: int) -> bytes:
        """Up to `length` bytes of the file from a place in it."""
        if length < 1:
            return b""
        with self._named("read"):
            content: bytes = _system(self._scheme).cat_file(self._key, start=at, end=at + length)
        return content

    def write_bytes(self, content: bytes) -> None:
        """Writes the file, which then is as a whole what it was before or what is written."""
        with self._named("written"):
            _system(self._scheme).pipe_file(self._key, content)

    def create(self, content: bytes) -> bool:
        """Writes the file unless there is one; returns whether. Of several processes, one does."""
        if self.is_file():  # some servers do not know the condition
            return False
        with self._named("written"):
            try:
                _system(self._scheme).pipe_file(self._key, content, mode="create")
            except FileExistsError:
                return False
        return True

    def download(self, file: Path) -> None:
        """Writes a local file with the content of this one."""
        with self._named("read"):
            _system(self._scheme).get_file(self._key, str(file))

    def upload(self, file: Path) -> None:
        """Writes the file with the content of a local one."""
        with self._named("written"):
            _system(self._scheme).put_file(str(file), self._key)

    def unlink(self, missing_ok: bool = True) -> None:
        """Deletes the file. S3 does not say whether there was one."""
        with contextlib.suppress(FileNotFoundError), self._named("deleted"):
            _system(self._scheme).rm_file(self._key)

    def remove_tree(self) -> None:
        """Deletes all files below this folder."""
        for path, _ in list(self._below(None)):
            path.unlink()

    def _below(self, depth: int | None) -> Iterator[tuple[BucketPath, int]]:
        try:
            with self._named("listed"):
                found = _system(self._scheme).find(self._key, maxdepth=depth, detail=True)
        except FileNotFoundError:
            return
        for key, each in found.items():
            if each["type"] == "file" and key != self._key:
                yield BucketPath(f"{self._scheme}://{key}"), int(each["size"])

    @contextlib.contextmanager
    def _named(self, doing: str) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # of packages that have no class in common
            code = _code(error)
            if isinstance(error, FileNotFoundError) or code in _MISSING:
                self._check_bucket()
                raise FileNotFoundError(
                    errno.ENOENT, os.strerror(errno.ENOENT), str(self)
                ) from None
            raise InputError(f"{self}: cannot be {doing}: {self._reason(error)}") from None

    def _check_bucket(self) -> None:
        bucket = self._key.partition("/")[0]
        try:
            _system(self._scheme).find(bucket, maxdepth=1, prefix=".")
        except Exception as error:  # as above; who may read a file need not be allowed to list
            if isinstance(error, FileNotFoundError) or _code(error) in _MISSING:
                raise InputError(f"{self}: no such bucket: {self._scheme}://{bucket}") from None

    def _reason(self, error: Exception) -> str:
        names = [each.__name__ for each in type(error).__mro__]
        if any(name.endswith(_NO_CREDENTIALS) for name in names):
            return f"no credentials. Set {_LOG_IN[self._scheme]}"
        if isinstance(error, PermissionError) or _code(error) in _FORBIDDEN:
            return f"no permission ({_line(error)}). Credentials come from {_LOG_IN[self._scheme]}"
        if any(name.endswith(_NO_NETWORK) for name in names):
            return f"the network does not reach it ({_line(error)})"
        return _line(error)


def _code(error: Exception) -> object:
    """What a service answered, as each package says it."""
    answer = getattr(error, "response", None)  # of botocore
    if isinstance(answer, dict):
        return answer.get("Error", {}).get("Code")
    return getattr(error, "code", None)  # of gcsfs


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


@functools.cache
def _system(scheme: str) -> Any:
    """The file system of fsspec, which all threads share. It remembers no listings: other
    processes write there too.
    """
    package, extra = _PACKAGES[scheme]
    try:
        if scheme == "gs":
            # Not what fsspec has for gs://, which asks another service first what a bucket is of.
            from gcsfs.core import GCSFileSystem as FileSystem
        else:
            from s3fs import S3FileSystem as FileSystem
    except ImportError:
        raise InputError(
            f"{scheme}:// needs the package {package}: pip install 'personlab-keras[{extra}]'"
        ) from None
    logging.getLogger(package).setLevel(logging.CRITICAL)  # what fails is raised, too
    return FileSystem(use_listings_cache=False, skip_instance_cache=True)
