"""What do compact records save, and what does the input pipeline cost?

    python benchmarks/pipeline.py --records records/train --photos records/photos

Prints bytes per view of the compact targets beside dense float16 ones, and images per second of CPU
time of: reading and decoding the JPEG alone (the floor), the whole pipeline (its expansion compiled
by XLA), the same with the expansion op by op, and the pipeline with the expansion left to the
training step, where it is timed as well. With `--photos`, records of the same images prepared with
`data.online=true`: bytes per photo, and the whole pipeline of views taken of them. With `--grain`,
the whole pipeline read by Grain, in one process beside this one. All ways in one run, interleaved,
median of the rounds."""

import argparse
import os
import statistics
import time

import psutil
import tensorflow as tf

from data_prep.statistics import summary
from personlab_keras.config import DataConfig
from personlab_keras.data.pipeline import expand, make_dataset, training_examples
from personlab_keras.data.records import Meta, read_meta

PREFETCHED = 32
"""Images that a pipeline may have ready: they are taken before the clock starts."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", required=True)
    parser.add_argument("--photos", help="records of photos")
    parser.add_argument("--grain", action="store_true", help="also read with Grain")
    parser.add_argument("--images", type=int, default=400, help="images per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    # One core, set before TensorFlow starts the threads that it computes with.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    meta = read_meta(options.records)
    sizes = summary(options.records)
    compact, dense = (
        sizes["bytes of targets per view"],
        sizes["bytes of dense float16 targets per view"],
    )
    print(f"{meta.records} views of {meta.view_size} px at stride {meta.stride}")
    print(
        f"targets per view: {compact} bytes compact, {dense} dense float16: {dense / compact:.0f} times as many"
    )
    ways = {
        "JPEG decode alone (floor)": jpeg_alone(options.records, meta, options.batch),
        "whole pipeline": make_dataset(options.records, options.batch, training=True),
        "whole pipeline, expansion op by op": op_by_op(options.records, meta, options.batch),
        "pipeline without expansion": unexpanded(options.records, meta, options.batch),
    }
    if options.photos:
        sizes = summary(options.photos)
        print(
            f"photos: {sizes['bytes per view']} bytes each, of it {sizes['bytes of targets per view']} "
            f"beside the image; a record of a view: {summary(options.records)['bytes per view']}"
        )
        ways["whole pipeline, views of photos"] = make_dataset(
            options.photos, options.batch, training=True
        )
    if options.grain:
        settings = DataConfig(engine="grain", reader_processes=1)
        for name, folder in (("views", options.records), ("views of photos", options.photos)):
            if folder:
                ways[f"whole pipeline by Grain, {name}"] = make_dataset(
                    folder, options.batch, training=True, settings=settings
                )
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, dataset in ways.items():
            rates[name].append(images_per_second(dataset, options.images, options.batch))
    floor = statistics.median(rates["JPEG decode alone (floor)"])
    for name, values in rates.items():
        middle = statistics.median(values)
        print(f"{name}: {middle:.0f} images a CPU second, {middle / floor:.2f} of the floor")
    print(
        f"expansion inside the training step: {1e3 * seconds_of_expansion(options.records, meta, options.batch):.2f} ms per image"
    )


def jpeg_alone(records: str, meta: Meta, batch: int) -> tf.data.Dataset:
    """Images only, nothing else parsed."""
    files = [f"{records}/{shard.name}" for shard in meta.shards]

    def decode(serialized: tf.Tensor) -> tf.Tensor:
        parsed = tf.io.parse_single_example(
            serialized, {"image": tf.io.FixedLenFeature([], tf.string)}
        )
        return tf.ensure_shape(
            tf.io.decode_jpeg(parsed["image"], channels=3), [meta.view_size, meta.view_size, 3]
        )

    return (
        tf.data.TFRecordDataset(files)
        .repeat()
        .map(decode, tf.data.AUTOTUNE)
        .batch(batch)
        .prefetch(tf.data.AUTOTUNE)
    )


def unexpanded(records: str, meta: Meta, batch: int) -> tf.data.Dataset:
    """Augmented batches in compact form."""
    return (
        training_examples(records, meta, DataConfig(), seed=0)
        .batch(batch)
        .prefetch(tf.data.AUTOTUNE)
    )


def op_by_op(records: str, meta: Meta, batch: int) -> tf.data.Dataset:
    """Augmented batches with dense targets, their expansion not compiled."""
    examples = training_examples(records, meta, DataConfig(), seed=0)
    dense = examples.map(
        lambda example: (tf.cast(example["image"], tf.float32), expand(example, meta)),
        tf.data.AUTOTUNE,
    )
    return dense.batch(batch, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE).prefetch(
        tf.data.AUTOTUNE
    )


def images_per_second(dataset: tf.data.Dataset, images: int, batch: int) -> float:
    batches = iter(dataset)
    for _ in range(2 * PREFETCHED // batch + 1):
        next(batches)
    began = cpu_seconds()
    for _ in range(images // batch):
        next(batches)
    return images // batch * batch / (cpu_seconds() - began)


def cpu_seconds() -> float:
    """CPU time of this process and those that it has started."""
    here = psutil.Process()
    times = [each.cpu_times() for each in (here, *here.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def seconds_of_expansion(records: str, meta: Meta, batch: int) -> float:
    """Seconds per image of the expansion as a compiled function of a whole batch, as a training
    step would hold it.
    """
    compact = next(iter(unexpanded(records, meta, batch)))
    del compact["image"]

    @tf.function(jit_compile=True)
    def expanded(examples: dict[str, tf.Tensor]) -> list[dict[str, tf.Tensor]]:
        return [
            expand({name: value[i] for name, value in examples.items()}, meta) for i in range(batch)
        ]

    expanded(compact)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        expanded(compact)
        times.append(time.perf_counter() - began)
    return statistics.median(times) / batch


if __name__ == "__main__":
    main()
