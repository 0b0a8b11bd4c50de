"""How fast are images baked into records, beside the least that it can take?

    python benchmarks/prepare.py --annotations JSON --images DIR --sides 401 801

For each side of the views this process alone prepares all images, annotations and all; and in the
same run, by turns, the floor: the same files read, decoded, resized to fit the side, padded to the
view and encoded by OpenCV. The sample is listed --times times, under other ids, so that shards are
as large as those of a real data set. Times are of this process's CPU and of the clock, the least of
the rounds."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from data_prep.build import prepare
from data_prep.engines import processes
from personlab_keras.annotations.coco import read_coco
from personlab_keras.annotations.dataset import Dataset
from personlab_keras.config import Config, load_config
from personlab_keras.method.skeleton import COCO_PERSON


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--sides", type=int, nargs="+", default=[401, 801])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--times", type=int, default=8)
    parser.add_argument(
        "--plan",
        type=Path,
        help="only: time and peak memory to read this annotation file and deal its images to shards",
    )
    options = parser.parse_args()
    if options.plan:
        plan(options.plan)
        return
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        options.annotations = multiplied(
            options.annotations, options.times, Path(folder) / "annotations.json"
        )
        compare(options)


def multiplied(annotations: Path, times: int, path: Path) -> Path:
    """The annotation file with all its images listed so many times; returns `path`."""
    content = json.loads(annotations.read_bytes())
    step = 1 + max(entry["id"] for entry in (*content["images"], *content["annotations"]))
    images = [
        {**entry, "id": entry["id"] + step * i} for i in range(times) for entry in content["images"]
    ]
    people = [
        {**entry, "id": entry["id"] + step * i, "image_id": entry["image_id"] + step * i}
        for i in range(times)
        for entry in content["annotations"]
    ]
    path.write_text(json.dumps({**content, "images": images, "annotations": people}))
    return path


def compare(options: argparse.Namespace) -> None:
    """Prints a line for each side."""
    coco = read_coco(options.annotations, COCO_PERSON)
    for side in options.sides:
        config = load_config(None, [f"data.view_size={side}"])
        ours, floor = [], []
        for _ in range(options.rounds):
            floor.append(timed(partial(plainly, coco, options.images, config)))
            with tempfile.TemporaryDirectory() as out:
                ours.append(
                    timed(
                        partial(
                            prepare,
                            options.annotations,
                            options.images,
                            out,
                            config,
                            engine=processes(1),
                        )
                    )
                )
        figures = {
            "side": side,
            "images": len(coco.images),
            **compared(ours, floor, len(coco.images)),
        }
        print(json.dumps({**figures, "peak_mb": peak(options, side)}), flush=True)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the CPU and of the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock


def plainly(coco: Dataset, folder: Path, config: Config) -> None:
    """The floor: decode, resize, encode, write."""
    with tempfile.TemporaryFile() as file:
        for image in coco.images:
            pixels = cv2.imdecode(
                np.frombuffer((folder / image.file_name).read_bytes(), np.uint8), cv2.IMREAD_COLOR
            )
            scale = config.data.view_size / max(image.width, image.height)
            size = (round(image.width * scale), round(image.height * scale))
            small = cv2.resize(
                pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            )
            below, right = config.data.view_size - size[1], config.data.view_size - size[0]
            view = cv2.copyMakeBorder(
                small, 0, below, 0, right, cv2.BORDER_CONSTANT, value=config.data.pad_colour
            )
            file.write(
                cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, config.data.image_quality])[
                    1
                ].tobytes()
            )


def compared(
    ours: list[tuple[float, float]], floor: list[tuple[float, float]], images: int
) -> dict[str, float]:
    """Images a second and how many times the floor's time."""
    cpu, clock = (min(times) for times in zip(*ours, strict=True))
    floor_cpu, floor_clock = (min(times) for times in zip(*floor, strict=True))
    return {
        "images_per_cpu_second": round(images / cpu, 1),
        "floor_images_per_cpu_second": round(images / floor_cpu, 1),
        "times_the_floor_cpu": round(cpu / floor_cpu, 2),
        "images_per_second": round(images / clock, 1),
        "times_the_floor_clock": round(clock / floor_clock, 2),
    }


def peak(options: argparse.Namespace, side: int) -> float:
    """Megabytes that the command takes at most, workers aside."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            "prepare",
            "--annotations",
            options.annotations,
            "--images",
            options.images,
            "--out",
            f"{out}/records",
        ]
        command += ["--set", f"data.view_size={side}", "--workers", "1"]
        subprocess.run(
            [sys.executable, "-m", "personlab_keras.cli", *map(str, command)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)


def plan(path: Path) -> None:
    """Prints what it takes to read an annotation file and deal its images to shards."""
    from data_prep.shards import deal

    cpu, clock = time.process_time(), time.perf_counter()
    coco = read_coco(path, COCO_PERSON)
    shards = deal(coco.images, len(coco.images), Config().data)
    figures = {
        "images": len(coco.images),
        "persons": sum(len(image.annotations) for image in coco.images),
        "megabytes": round(path.stat().st_size / 1e6),
        "shards": len(shards),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "seconds": round(time.perf_counter() - clock, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
