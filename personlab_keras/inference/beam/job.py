"""A job of many images, split into shards: each is written whole or not at all, and the same
command goes on with those that are left.
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
    Listed,
    join_path,
    list_sources,
    names_in,
    read,
    remove,
    set_options,
    write,
    writing_in,
)
from personlab_keras.inference.beam.handler import Found, PeopleHandler
from personlab_keras.model_directory import DESCRIPTION_FILE, description_file, parse_description

MANIFEST = "manifest.json"
STATE = "state"
"""Folder beside the results: the images of each shard, and what became of it."""

IMAGES_PER_SHARD = 256
"""Where the number of shards is not given: what a stop loses at most in each worker."""


@dataclass(frozen=True)
class Manifest:
    """What a folder holds the results of.

    Attributes:
        images: how many.
        listing: digest of their paths and sizes.
        model: digest of `personlab.json` and of the index of the SavedModel's variables, which
            holds checksums of all weights.
        shards: how many.
    """

    images: int
    listing: str
    model: str
    shards: int


@dataclass(frozen=True)
class ManySummary:
    """What became of all images of a job, those of earlier runs included.

    Attributes:
        images: predicted.
        people: found in them.
        failed: images that could not be, by reason.
        shards: of the job.
        done_before: shards that were there already.
    """

    images: int
    people: int
    failed: Mapping[str, int]
    shards: int
    done_before: int


def predict_many(
    sources: Iterable[str | Path],
    model: str | Path,
    out: str | Path,
    pipeline: PipelineOptions | None = None,
    shards: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ManySummary:
    """Writes `people-*.jsonl`, a line for each image, and `failed-*.jsonl` for those that failed,
    by a Beam pipeline.

    Args:
        sources: as for `addresses.list_sources`.
        model: model directory with its SavedModel.
        out: folder or address for the results; the same call again does what is left.
        pipeline: its options; None runs it here, in this process.
        shards: into how many files; None for those that are there, or one for every
            `IMAGES_PER_SHARD` images.
        say: gets a line when the work is known.

    Raises:
        InputError: a source matches nothing; the model cannot be used; `out` is of other images,
            another model or other shards, or somebody else writes there; the pipeline failed.
        KeyboardInterrupt: interrupted; its text says how far it came.
    """
    if shards is not None and shards < 1:
        raise InputError(f"--shards must be at least 1. Received: {shards}")
    model = str(model) if is_address(model) else str(description_file(model).parent.absolute())
    out = str(out) if is_address(out) else str(Path(out).absolute())
    if not is_address(out) and Path(out).exists() and not Path(out).is_dir():
        raise InputError(f"{out}: must be a folder for the results. Received: a file")
    options = PipelineOptions([]) if pipeline is None else pipeline
    set_options(options)
    described = _read_of_model(model, DESCRIPTION_FILE)
    batch_size = parse_description(
        described, join_path(model, DESCRIPTION_FILE)
    ).config.predict.batch_size
    weights = _read_of_model(model, "variables", "variables.index")
    images = list_sources(sources)
    with writing_in([out, join_path(out, STATE)]):
        manifest = _begin(out, images, hashlib.sha256(described + weights).hexdigest(), shards)
        every = [ResultShard(out, number, manifest.shards) for number in range(manifest.shards)]
        left = _unfinished(out, every)
        say(
            f"{out}: {manifest.images} images in {len(every)} shards, {len(every) - len(left)} of them finished before"
        )
        if left:
            try:
                _run(left, PeopleHandler(model, batch_size), options)
            except KeyboardInterrupt:
                finished = len(every) - len(_unfinished(out, every))
                raise KeyboardInterrupt(
                    f"interrupted with {finished} of {len(every)} shards finished; the same command goes on from there"
                ) from None
        lost = _unfinished(out, every)
        if lost:
            raise InputError(
                f"{lost[0].people}: not written by the pipeline, or its workers see another folder of that name"
            )
        return _summary(every, done_before=len(every) - len(left))


@dataclass(frozen=True)
class ResultShard:
    """A unit of work: some of the images, one file of results.

    Attributes:
        out: folder of the results.
        number: from 0, of
        count: shards.
    """

    out: str
    number: int
    count: int

    @property
    def people(self) -> str:
        """Address of its results."""
        return join_path(self.out, self._name("people"))

    @property
    def failed(self) -> str:
        """Address of its list of failed images."""
        return join_path(self.out, self._name("failed"))

    @property
    def listing(self) -> str:
        """Address of the list of its images, pairs of path and size."""
        return join_path(self.out, STATE, f"images-{self.number:05}.json")

    @property
    def note(self) -> str:
        """Address of what became of it, written last."""
        return join_path(self.out, STATE, f"done-{self.number:05}.json")

    def is_finished(self, results: set[str], state: set[str]) -> bool:
        """Whether its files are among the names in the two folders."""
        return self._name("people") in results and f"done-{self.number:05}.json" in state

    def write(self, found: Found) -> None:
        """Writes all its files, the note last."""
        if found.failed:
            write(self.failed, _lines(found.failed))
        else:
            remove(self.failed)
        write(self.people, _lines(found.done))
        write(self.note, json.dumps(found.counts).encode())

    def _name(self, kind: str) -> str:
        return f"{kind}-{self.number:05}-of-{self.count:05}.jsonl"


def _lines(values: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(value, allow_nan=False) + "\n" for value in values).encode()


def shard_of(path: str, count: int) -> int:
    """The shard of an image, which does not depend on the other images."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") % count


def _read_of_model(model: str, *names: str) -> bytes:
    path = join_path(model, *names)
    try:
        return read(path)
    except Exception as error:  # each file system has classes of its own
        raise InputError(
            f"{path}: cannot be read; --beam takes a model directory with its SavedModel. {' '.join(str(error).split())[:200]}"
        ) from None


def _begin(out: str, images: Sequence[Listed], model: str, shards: int | None) -> Manifest:
    """The manifest of a job, written now or found as it should be."""
    digest = hashlib.sha256(
        json.dumps([[image.path, image.size] for image in images]).encode()
    ).hexdigest()
    path = join_path(out, MANIFEST)
    names = names_in(out)
    if MANIFEST in names:
        there = _manifest(path)
        if there.model != model:
            raise InputError(
                f"{path}: the results there are of another model, or of other settings of it; choose another folder"
            )
        if there.listing != digest:
            raise InputError(
                f"{path}: the results there are of other images, {there.images} of them; choose another folder. "
                f"Received: {len(images)} images, new or changed ones among them, or some are gone"
            )
        if shards not in (None, there.shards):
            raise InputError(
                f"{path}: the results there are in {there.shards} shards; choose another folder. Received: {shards}"
            )
        return there
    if any(name.startswith("people-") for name in names):
        raise InputError(
            f"{out}: holds results, but no {MANIFEST} that tells of what; choose another folder"
        )
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
            # Spread over the workers; from there to its file a shard stays in one of them, and is
            # written when it is done.
            spread = (
                pipeline | "shards" >> apache_beam.Create(list(shards)) | apache_beam.Reshuffle()
            )
            examples = spread | "listing" >> apache_beam.Map(_with_listing)
            found = examples | "people" >> RunInference(KeyedModelHandler(handler))
            _ = found | "write" >> apache_beam.MapTuple(ResultShard.write)
    except Exception as error:
        if _is_interrupt(error):
            raise KeyboardInterrupt from None
        raise InputError(
            f"the Beam pipeline failed: {' '.join(str(error).split())[:300]}"
        ) from error


@contextlib.contextmanager
def _quiet_beam() -> Iterator[None]:
    """Within, Beam's log holds neither the tracebacks of what is told in one line here, nor that it
    cannot measure memory.
    """
    runner, root = logging.getLogger("apache_beam.runners.common"), logging.getLogger()
    level = runner.level

    def tells(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Resource module is not available")

    runner.setLevel(logging.CRITICAL)
    root.addFilter(tells)
    try:
        yield
    finally:
        runner.setLevel(level)
        root.removeFilter(tells)


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether this began as Ctrl-C, of which Beam makes an error of the step that it met."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _with_listing(shard: ResultShard) -> tuple[ResultShard, str]:
    return shard, shard.listing


def _summary(shards: Sequence[ResultShard], done_before: int) -> ManySummary:
    with ThreadPoolExecutor(READERS) as pool:
        notes = [json.loads(note) for note in pool.map(read, [shard.note for shard in shards])]
    failed: Counter[str] = Counter()
    for note in notes:
        failed.update(note["failed"])
    images, people = (sum(note[name] for note in notes) for name in ("images", "people"))
    return ManySummary(images, people, dict(sorted(failed.items())), len(shards), done_before)
