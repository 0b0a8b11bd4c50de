"""Predicts large sets of images in shards. Each shard is written atomically, and the same command
resumes with the shards that are left.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from personlab_keras.errors import InputError
from personlab_keras.inference.beam import is_address
from personlab_keras.inference.beam.filesystems import (
    READERS,
    ImageFile,
    configure,
    join_path,
    list_sources,
    names_in,
    read,
    remove,
    write,
    writing_in,
)
from personlab_keras.inference.beam.handler import PeopleHandler, ShardResults
from personlab_keras.model_directory import DESCRIPTION_FILE, description_file, parse_description

MANIFEST = "manifest.json"
STATE = "state"
"""Subfolder of the results with the list of images and the counts of each shard."""

IMAGES_PER_SHARD = 256
"""Default size of a shard: at most this many images per worker are lost when a job is stopped."""


@dataclass(frozen=True)
class Manifest:
    """Identifies the job whose results a folder holds.

    Attributes:
        images: number of images.
        listing: digest of their paths and sizes.
        model: digest of `personlab.json` and of the index of the SavedModel's variables, which
            holds checksums of all weights.
        shards: number of shards.
    """

    images: int
    listing: str
    model: str
    shards: int


@dataclass(frozen=True)
class BeamSummary:
    """Counts over all images of a job, including those of earlier runs.

    Attributes:
        images: number of images predicted.
        people: number of people found in them.
        failed: number of failed images by reason.
        shards: number of shards of the job.
        done_before: number of shards that earlier runs had finished.
    """

    images: int
    people: int
    failed: Mapping[str, int]
    shards: int
    done_before: int


def predict_with_beam(
    sources: Iterable[str | Path],
    model: str | Path,
    out: str | Path,
    pipeline: PipelineOptions | None = None,
    shards: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> BeamSummary:
    """Predicts images by a Beam pipeline and writes `people-*.jsonl`, a line per image, and
    `failed-*.jsonl` for the images that failed.

    Args:
        sources: as for `filesystems.list_sources`.
        model: model directory with its SavedModel.
        out: folder or address for the results; the same call again resumes.
        pipeline: options of the pipeline; None runs it in this process.
        shards: number of result files; None for the number of an earlier run, or one per
            `IMAGES_PER_SHARD` images.
        say: receives a line with the number of images and shards.

    Raises:
        InputError: a source matches no image; the model cannot be used; `out` holds results of
            other images, another model or another number of shards, or another process is writing
            there; the pipeline failed.
        KeyboardInterrupt: interrupted; its text says how many shards are finished.
    """
    if shards is not None and shards < 1:
        raise InputError(f"--shards must be at least 1. Received: {shards}")
    model = str(model) if is_address(model) else str(description_file(model).parent.absolute())
    out = str(out) if is_address(out) else str(Path(out).absolute())
    if not is_address(out) and Path(out).exists() and not Path(out).is_dir():
        raise InputError(f"{out}: must be a folder for the results. Received: a file")
    options = PipelineOptions([]) if pipeline is None else pipeline
    configure(options)
    described = _read_of_model(model, DESCRIPTION_FILE)
    batch_size = parse_description(
        described, join_path(model, DESCRIPTION_FILE)
    ).config.predict.batch_size
    weights = _read_of_model(model, "variables", "variables.index")
    images = list_sources(sources)
    with writing_in([out, join_path(out, STATE)]):
        manifest = _begin(out, images, hashlib.sha256(described + weights).hexdigest(), shards)
        all_shards = [
            ResultShard(out, number, manifest.shards) for number in range(manifest.shards)
        ]
        remaining = _unfinished(out, all_shards)
        done_before = len(all_shards) - len(remaining)
        say(
            f"{out}: {manifest.images} images in {len(all_shards)} shards, {done_before} of them finished before"
        )
        if remaining:
            try:
                _run(remaining, PeopleHandler(model, batch_size), options)
            except KeyboardInterrupt:
                finished = len(all_shards) - len(_unfinished(out, all_shards))
                raise KeyboardInterrupt(
                    f"interrupted with {finished} of {len(all_shards)} shards finished; the same command resumes from there"
                ) from None
        missing = _unfinished(out, all_shards)
        if missing:
            raise InputError(
                f"{missing[0].people}: not written by the pipeline, unless its workers write to another folder of that name"
            )
        return _summary(all_shards, done_before)


@dataclass(frozen=True)
class ResultShard:
    """A part of the images of a job, whose results are one file.

    Attributes:
        out: folder of the results.
        number: index of the shard, from 0.
        count: number of shards.
    """

    out: str
    number: int
    count: int

    @property
    def people(self) -> str:
        """Path or address of its results."""
        return join_path(self.out, self._name("people"))

    @property
    def failed(self) -> str:
        """Path or address of its list of failed images."""
        return join_path(self.out, self._name("failed"))

    @property
    def listing(self) -> str:
        """Path or address of the list of its images, pairs of path and size."""
        return join_path(self.out, STATE, f"images-{self.number:05}.json")

    @property
    def counts(self) -> str:
        """Path or address of its counts, which are written last."""
        return join_path(self.out, STATE, f"done-{self.number:05}.json")

    def is_finished(self, results: set[str], state: set[str]) -> bool:
        """Whether its files are among the names in the folder of the results and its subfolder."""
        return self._name("people") in results and f"done-{self.number:05}.json" in state

    def write(self, results: ShardResults) -> None:
        """Writes all its files, the counts last."""
        if results.failed:
            write(self.failed, _lines(results.failed))
        else:
            remove(self.failed)
        write(self.people, _lines(results.done))
        write(self.counts, json.dumps(results.counts).encode())

    def _name(self, kind: str) -> str:
        return f"{kind}-{self.number:05}-of-{self.count:05}.jsonl"


def _lines(values: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(value, allow_nan=False) + "\n" for value in values).encode()


def shard_of(path: str, count: int) -> int:
    """The shard of an image, whatever the other images are.

    >>> shard_of("gs://bucket/1.jpg", 8) == shard_of("gs://bucket/1.jpg", 8) < 8
    True
    """
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") % count


def _read_of_model(model: str, *names: str) -> bytes:
    path = join_path(model, *names)
    try:
        return read(path)
    except Exception as error:  # each file system raises its own classes
        raise InputError(
            f"{path}: cannot be read; --beam takes a model directory with its SavedModel. {' '.join(str(error).split())[:200]}"
        ) from None


def _begin(out: str, images: Sequence[ImageFile], model: str, shards: int | None) -> Manifest:
    """Writes the manifest of a new job, or checks that of an earlier run."""
    digest = hashlib.sha256(
        json.dumps([[image.path, image.size] for image in images]).encode()
    ).hexdigest()
    path = join_path(out, MANIFEST)
    names = names_in(out)
    if MANIFEST in names:
        there = _manifest(path)
        if there.model != model:
            raise InputError(
                f"{path}: the folder holds results of another model, or of other settings; choose another folder"
            )
        if there.listing != digest:
            raise InputError(
                f"{path}: the folder holds results of {there.images} images; choose another folder. "
                f"Received: {len(images)} images, of which some are new, changed or missing"
            )
        if shards not in (None, there.shards):
            raise InputError(
                f"{path}: the folder holds results in {there.shards} shards; choose another folder. Received: {shards}"
            )
        return there
    if any(name.startswith("people-") for name in names):
        raise InputError(f"{out}: holds results without {MANIFEST}; choose another folder")
    count = shards or -(-len(images) // IMAGES_PER_SHARD)
    members: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for image in images:
        members[shard_of(image.path, count)].append((image.path, image.size))
    with ThreadPoolExecutor(READERS) as pool:
        contents = (
            (ResultShard(out, number, count).listing, json.dumps(members[number]).encode())
            for number in range(count)
        )
        list(pool.map(lambda pair: write(*pair), contents))
    manifest = Manifest(len(images), digest, model, count)
    write(path, json.dumps(asdict(manifest), indent=1).encode())
    return manifest


def _manifest(path: str) -> Manifest:
    try:
        return Manifest(**json.loads(read(path)))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged: {error}") from None


def _unfinished(out: str, shards: Sequence[ResultShard]) -> list[ResultShard]:
    results, state = names_in(out), names_in(join_path(out, STATE))
    return [shard for shard in shards if not shard.is_finished(results, state)]


def _run(shards: Sequence[ResultShard], handler: PeopleHandler, options: PipelineOptions) -> None:
    try:
        with _quiet_beam(), apache_beam.Pipeline(options=options) as pipeline:
            # Shards are spread over the workers; each stays in one worker until it is written.
            spread = (
                pipeline | "shards" >> apache_beam.Create(list(shards)) | apache_beam.Reshuffle()
            )
            examples = spread | "listing" >> apache_beam.Map(_with_listing)
            results = examples | "people" >> RunInference(KeyedModelHandler(handler))
            _ = results | "write" >> apache_beam.MapTuple(ResultShard.write)
    except Exception as error:
        if _is_interrupt(error):
            raise KeyboardInterrupt from None
        raise InputError(
            f"the Beam pipeline failed: {' '.join(str(error).split())[:300]}"
        ) from error


@contextlib.contextmanager
def _quiet_beam() -> Iterator[None]:
    """Silences Beam's tracebacks of errors that are reported here in one line, and its warning that
    it cannot measure memory.
    """
    runner, root = logging.getLogger("apache_beam.runners.common"), logging.getLogger()
    level = runner.level

    def is_wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Resource module is not available")

    runner.setLevel(logging.CRITICAL)
    root.addFilter(is_wanted)
    try:
        yield
    finally:
        runner.setLevel(level)
        root.removeFilter(is_wanted)


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused an error: Beam turns it into an error of the interrupted step."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _with_listing(shard: ResultShard) -> tuple[ResultShard, str]:
    return shard, shard.listing


def _summary(shards: Sequence[ResultShard], done_before: int) -> BeamSummary:
    with ThreadPoolExecutor(READERS) as pool:
        counts = [json.loads(text) for text in pool.map(read, [shard.counts for shard in shards])]
    failed: Counter[str] = Counter()
    for each in counts:
        failed.update(each["failed"])
    images, people = (sum(each[name] for each in counts) for name in ("images", "people"))
    return BeamSummary(images, people, dict(sorted(failed.items())), len(shards), done_before)
