"""The tf.data pipeline: records -> batches of images and dense training targets.

Augmentation acts on the compact form, before the expansion to 150 channels: a flip moves 19 small
maps and P points instead. Everything random is a function of (seed, position in the stream), so the
stream is reproducible and can be entered anywhere."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import tensorflow as tf

from personlab_keras.config import DataConfig
from personlab_keras.data.augmentation import Example, random_augmentation, whole_view
from personlab_keras.data.grain_engine import grain_examples
from personlab_keras.data.photos import PHOTO_ARRAYS
from personlab_keras.data.records import (
    ARRAYS,
    Meta,
    check_damage,
    check_meta,
    find_damage,
    read_meta,
)
from personlab_keras.data.shard_files import read_shard
from personlab_keras.data.stream import EVERYTHING, Part, Stream, check_lengths
from personlab_keras.data.tfrecords import Damage
from personlab_keras.errors import InputError
from personlab_keras.io.files import Place, as_place
from personlab_keras.method.coordinates import grid
from personlab_keras.method.maps import mask_name
from personlab_keras.method.targets import IGNORE_CROWD, IGNORE_MASKLESS, OVERLAP

WAIT = "wait"


def make_dataset(
    records: str | Place,
    batch_size: int,
    *,
    training: bool,
    settings: DataConfig | None = None,
    seed: int = 0,
    first_example: int = 0,
    part: int = 0,
    parts: int = 1,
) -> tf.data.Dataset:
    """Batches (image, targets) of a records folder.

    Image: (B, side, side, 3) float32 RGB in 0..255. Targets: for each of `maps.OUTPUTS` a dense (B,
    h, w, channels) float32 array under its name and its mask under `maps.mask_name`.

    Training: endless, shuffled again in every pass over the records, flipped and recoloured at
    random, every batch full. Records of photos (`Meta.online`) give another random view in every
    pass. Otherwise: one pass in the order of the shards, without augmentation; the last batch may
    be smaller.

    Processes that share batches each take a part, and read no other: together they see the stream
    of one, whatever their number.

    Args:
        records: folder that `personlab prepare` wrote.
        settings: flip, colour and shuffle settings for training.
        seed: of everything random.
        first_example: position in the training stream to start at; batches from there on equal
            those of an uninterrupted stream.
        part: which part of each training batch to give.
        parts: equal ones that a training batch of `batch_size` is divided into.

    Raises:
        InputError: no records folder; a shard is not of the length that meta.json says; with
            `settings.skip_corrupt`, more records than that are damaged. A record that turns out to
            be damaged while it is read ends the stream: `damage_named` names it.

    >>> image, targets = next(iter(make_dataset("records", 2, training=False)))
    >>> image.shape, targets["heatmaps"].shape
    (TensorShape([2, 97, 97, 3]), TensorShape([2, 13, 13, 17]))
    """
    meta = read_meta(records)
    settings = settings or DataConfig()
    if training:
        check_meta(meta, records, skeleton=meta.skeleton, online=settings.online)
        positions = Part(first_example, batch_size, part, parts)
        batch_size //= parts
        dataset = training_examples(records, meta, settings, seed, positions)
    else:
        dataset = stored_examples(records, meta, settings.skip_corrupt)
    # Full batches only in training: a last short batch would be another shape to compile for.
    return _batches(dataset, meta, batch_size, drop_remainder=training).prefetch(tf.data.AUTOTUNE)


def batch_spec(meta: Meta, batch_size: int) -> tuple[tf.TensorSpec, dict[str, tf.TensorSpec]]:
    """The shapes and types of a training batch, as `fit` gets it: (image, targets with `WAIT`). No
    record is read.
    """
    none = tf.data.Dataset.from_generator(lambda: (), output_signature=tf.TensorSpec([], tf.string))
    examples = none.map(lambda serialized: read_example(serialized, meta))
    batches = _batches(examples, meta, batch_size, drop_remainder=True)
    return watch_waits(small_images(batches)).element_spec


def small_images(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The batches (image, targets) with images as uint8, a quarter of the bytes to bring to a
    device. Only recoloured images have other than whole values; they are rounded.
    """
    return dataset.map(lambda image, targets: (tf.cast(tf.round(image), tf.uint8), targets))


def _batches(
    examples: tf.data.Dataset, meta: Meta, batch_size: int, drop_remainder: bool
) -> tf.data.Dataset:
    """Examples in compact form to batches (image, dense targets)."""
    targets = compiled_expansion(meta)
    dense = examples.map(
        lambda example: (tf.cast(example["image"], tf.float32), targets(example)), tf.data.AUTOTUNE
    )
    return dense.batch(
        batch_size, drop_remainder=drop_remainder, num_parallel_calls=tf.data.AUTOTUNE
    )


def stored_examples(records: str | Place, meta: Meta, skip_corrupt: int = 0) -> tf.data.Dataset:
    """Parsed examples with decoded image (side, side, 3) uint8, in the order of the shards, once.
    At most `skip_corrupt` damaged records are skipped."""
    if skip_corrupt:
        # TensorFlow's reader leaves a file at the first damage. Everything is read once beforehand,
        # to count the damaged records.
        damaged = find_damage(records, meta)
        check_damage(damaged, skip_corrupt, records)
        for each in damaged:
            logging.getLogger(__name__).warning("skipped: %s", each)
        skipped = {(each.path.name, each.record) for each in damaged}
    else:
        check_lengths(records, meta)
        skipped = set()

    def sound() -> Iterator[bytes]:
        for shard in meta.shards:
            for number, content in enumerate(read_shard(as_place(records) / shard.name)):
                if (shard.name, number) in skipped:
                    continue
                if isinstance(content, Damage):
                    check_damage([content], 0, records)
                else:
                    yield content

    contents = tf.data.Dataset.from_generator(sound, output_signature=tf.TensorSpec([], tf.string))
    return contents.map(lambda each: read_example(each, meta), tf.data.AUTOTUNE)


@contextmanager
def damage_named(records: str | Place, *more: str | Place, skip_corrupt: int = 0) -> Iterator[None]:
    """Inside this context, the error for a damaged record that ends a stream of one of these
    folders names its file, number and offset, and that for a file that cannot be read its reason.

    Args:
        skip_corrupt: how many damaged records of the first folder are skipped.

    Raises:
        InputError: in place of TensorFlow's error, which names neither.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        # What a disk or a bucket does not give is no damage, for which all would be read.
        refused = re.search(r"InputError: (.*: cannot be read: .*)", str(error))
        if refused is not None:
            raise InputError(refused[1]) from None
        for folder, allowed in ((records, skip_corrupt), *((each, 0) for each in more)):
            check_damage(find_damage(folder, read_meta(folder)), allowed, folder)
        raise


def training_examples(
    records: str | Place, meta: Meta, settings: DataConfig, seed: int, part: Part = EVERYTHING
) -> tf.data.Dataset:
    """Endless augmented examples in compact form: those of a part of the stream of this seed, read
    by the engine of the settings. No other records are read.
    """
    stream = Stream(records, meta, settings, seed)
    make = functools.partial(preparation, settings, meta, seed)
    prepare = make()

    def example(number: tf.Tensor) -> Example:
        position = part.position(number)
        content = tf.numpy_function(stream.read, [position], tf.string, stateful=False)
        return prepare(position, tf.ensure_shape(content, []))

    examples = tf.data.Dataset.range(tf.int64.max).map(example, tf.data.AUTOTUNE)
    if settings.engine == "grain":
        return grain_examples(stream, part, make, examples.element_spec, settings.reader_processes)
    return examples


def preparation(
    settings: DataConfig, meta: Meta, seed: int
) -> Callable[[tf.Tensor, tf.Tensor], Example]:
    """A function (position in the stream, serialised record) -> augmented example."""
    augment = random_augmentation(settings, meta, seed)
    return lambda position, content: augment(position, stored_example(content, meta))


def watch_waits(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The batches (image, targets) with `WAIT` among the targets: (B,) float32, how long this batch
    was waited for, in seconds.
    """

    def moments() -> tf.data.Dataset:
        return tf.data.Dataset.range(tf.int64.max).map(lambda _: tf.timestamp())

    def noted(
        asked: tf.Tensor, batch: tuple[tf.Tensor, Example], given: tf.Tensor
    ) -> tuple[tf.Tensor, Example]:
        image, targets = batch
        seconds = tf.cast(given - asked, tf.float32)
        return image, {**targets, WAIT: tf.fill(tf.shape(image)[:1], seconds)}

    # Taken one after the other: the clock, the batch, the clock.
    return tf.data.Dataset.zip(moments(), dataset, moments()).map(noted)


def parse_example(serialized: tf.Tensor, meta: Meta) -> dict[str, tf.Tensor]:
    """A record as tensors: `image` (encoded bytes) and everything else of `Record`,
    `CompactTargets` and, as "photo_<name>", `Photo` by name.

    Persons are padded with zeros to `meta.max_persons`; `persons` says how many are real. All
    shapes but those of a photo are static."""
    arrays = {**ARRAYS, **PHOTO_ARRAYS} if meta.online else ARRAYS
    features = tf.io.parse_single_example(
        serialized, {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", *arrays)}
    )
    sizes = {"P": -1, "K": meta.skeleton.keypoint_count, "h": meta.map_side}
    if meta.online:
        size = tf.ensure_shape(tf.io.decode_raw(features["photo_size"], tf.int32), [2])
        sizes |= {"height": size[0], "width": size[1]}
    example = {"image": features["image"]}
    for name, (dtype, shape, compressed) in arrays.items():
        raw = tf.io.decode_compressed(features[name], "ZLIB") if compressed else features[name]
        known = [sizes[side] if isinstance(side, str) else side for side in shape]
        example[name] = tf.reshape(tf.io.decode_raw(raw, tf.as_dtype(dtype)), known)
        if "P" in shape:
            example["persons"] = tf.shape(example[name])[0]
            padding = [[0, meta.max_persons - example["persons"]]] + [[0, 0]] * (len(shape) - 1)
            example[name] = tf.ensure_shape(
                tf.pad(example[name], padding), [meta.max_persons, *known[1:]]
            )
    return example


def stored_example(serialized: tf.Tensor, meta: Meta) -> Example:
    """A parsed record with its image decoded: the view (side, side, 3) uint8, or the photo
    (H, W, 3) uint8.
    """
    example = parse_example(serialized, meta)
    # As in prediction: TensorFlow's default is faster and less exact.
    image = tf.io.decode_jpeg(example["image"], channels=3, dct_method="INTEGER_ACCURATE")
    side = None if meta.online else meta.view_size
    return {**example, "image": tf.ensure_shape(image, [side, side, 3])}


def read_example(serialized: tf.Tensor, meta: Meta) -> Example:
    """View 0 of a record: parsed, with its image decoded to (side, side, 3) uint8."""
    example = stored_example(serialized, meta)
    return whole_view(example, meta) if meta.online else example


def compiled_expansion(meta: Meta) -> Callable[[Example], Example]:
    """`expand` for the pipeline, compiled by XLA: one pass over memory instead of one per
    operation, several times as fast.
    """
    compact = ("keypoints", "disc_owner", "instance", "ignore")
    compiled = tf.function(lambda example: expand(example, meta), jit_compile=True, autograph=False)
    return lambda example: compiled({name: example[name] for name in compact})


def expand(example: Example, meta: Meta) -> Example:
    """Dense targets of one example: each is a gather from its table of keypoints and a subtraction
    (METHOD: Maps).

    Returns:
        For each of `maps.OUTPUTS` the target (h, w, channels) float32 under its name, and under
        `maps.mask_name` its mask (h, w, fields) float32, 1 where it counts in the loss.
    """
    side, keypoints = meta.map_side, meta.skeleton.keypoint_count
    edges = meta.skeleton.edge_indices
    cells = tf.constant(grid(side, side, meta.stride))[:, :, None, :]
    # Row 0 of the table is nobody, so that owners and instance ids index it as they are stored.
    table = tf.reshape(tf.pad(example["keypoints"], [[1, 0], [0, 0], [0, 0]]), [-1, 3])

    def offsets(owner: tf.Tensor, wanted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        points = tf.gather(table, owner * keypoints + wanted)
        counted = points[..., 2:]
        vectors = (points[..., :2] - cells) * counted
        return tf.reshape(vectors, [side, side, -1]), tf.squeeze(counted, -1)

    owner = tf.cast(example["disc_owner"], tf.int32)
    instance = tf.cast(example["instance"], tf.int32)[..., None]
    crowd = (
        tf.bitwise.bitwise_and(example["ignore"], tf.constant(IGNORE_CROWD, tf.uint8))[..., None]
        > 0
    )
    alone = tf.where((instance == OVERLAP) | crowd, 0, instance)
    # A person whose mask is unknown counts with its keypoints, but it is unknown which cells of its
    # box are person.
    counts = (
        tf.bitwise.bitwise_and(example["ignore"], tf.constant(255 - IGNORE_MASKLESS, tf.uint8)) == 0
    )
    maskless = (
        tf.bitwise.bitwise_and(example["ignore"], tf.constant(IGNORE_MASKLESS, tf.uint8))[..., None]
        > 0
    )
    every = tf.range(keypoints)
    fields = {
        "short_offsets": offsets(owner, every),
        # Only where both ends are labelled: elsewhere the target is unknown, not zero.
        "mid_offsets": offsets(
            tf.gather(owner, edges[:, 0], axis=2), tf.constant(edges[:, 1], tf.int32)
        ),
        "long_offsets": offsets(alone, every),
        "heatmaps": (tf.cast(owner > 0, tf.float32), tf.cast(counts, tf.float32)[..., None]),
        "segmentation": (
            tf.cast(instance > 0, tf.float32),
            tf.cast(~(crowd | maskless), tf.float32),
        ),
    }
    return {
        key: tensor
        for name, (target, mask) in fields.items()
        for key, tensor in ((name, target), (mask_name(name), mask))
    }
