"""`personlab demo`: the whole path on the embedded data set, and a page that shows what came
out.
"""

from __future__ import annotations

import html
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.build import prepare
from data_prep.inspection import draw_records
from personlab_keras.config import Config, config_to_yaml
from personlab_keras.errors import InputError
from personlab_keras.evaluation import evaluate
from personlab_keras.export.export import export_model
from personlab_keras.inference.predict import load
from personlab_keras.inference.predict_files import predict_files
from personlab_keras.io.files import write_atomically
from personlab_keras.io.images import list_images
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.synthetic import write_dataset
from personlab_keras.training.run_log import Log, read_log
from personlab_keras.training.train import train

SETTINGS_FILE = "demo.yaml"
SHOWN = 12
"""Target drawings and overlays on the page."""

Progress = Callable[[str], Callable[[int, int], None]]


def demo(
    out: str | Path, config: Config, progress: Progress, say: Callable[[str], None]
) -> dict[str, Any]:
    """Scenes -> records -> training -> SavedModel -> evaluation on held-out scenes -> overlays ->
    `index.html`.

    Writes `metrics.json`: keypoint and mask metrics, seconds per stage, and the number of weights.

    Args:
        out: a folder that does not exist, is empty, or holds an earlier demo, which is replaced.
        progress: what is counted -> function (done, in all).
        say: takes a line for the user.

    Raises:
        InputError: `out` holds something else.
    """
    folder = Path(out)
    _claim(folder, config)
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - began, 1)
        say(f"{name}: {seconds[name]} s")

    sets = {"train": config.demo.train_scenes, "val": config.demo.val_scenes}
    with stage("scenes"):
        for seed, (name, count) in enumerate(sets.items()):
            drawn = partial(_advance, progress(f"{name} scenes"), count)
            write_dataset(
                folder / "scenes" / name, count, config.demo.scene_size, seed=seed, progress=drawn
            )
    with stage("records"):
        for name in sets:
            scenes = folder / "scenes" / name
            prepare(
                scenes / "annotations.json",
                scenes / "images",
                folder / "records" / name,
                config,
                progress=progress(f"{name} views"),
            )
        draw_records(folder / "records" / "val", folder / "targets", SHOWN)
    with stage("training"):
        tick = progress("training steps")

        def report(log: Log) -> None:
            say(
                "  ".join(
                    f"{name} {value:.3g}" if name != "step" else f"step {int(value)}"
                    for name, value in log.items()
                )
            )
            tick(int(log["step"]), config.train.steps)

        network = train(folder / "records" / "train", folder / "run", config, report=report)
    weights = sum(math.prod(variable.shape) for variable in network.trainable_variables)
    with stage("export"):
        provenance = {
            "trained_on": f"{config.demo.train_scenes} synthetic scenes",
            "trained_steps": config.train.steps,
        }
        export_model(network, config, COCO_PERSON, folder / "exported", provenance)
    scenes = folder / "scenes" / "val"
    with stage("evaluation"):
        # Average precision is taken over all thresholds, so none is set.
        metrics = evaluate(
            load(folder / "exported", ["decode.score_threshold=0"]),
            scenes / "annotations.json",
            scenes / "images",
            folder / "evaluation",
            progress=progress("evaluated scenes"),
        )
    with stage("overlays"):
        chosen = list_images([scenes / "images"])[:SHOWN]
        predict_files(load(folder / "exported"), chosen, folder / "predictions")
    metrics = {**metrics, "seconds": seconds, "weights": weights}
    write_atomically(folder / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    write_atomically(
        folder / "index.html", page(folder, metrics, read_log(folder / "run"), config).encode()
    )
    return metrics


def _advance(tick: Callable[[int, int], None], total: int, done: int) -> None:
    tick(done, total)


def _claim(folder: Path, config: Config) -> None:
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / SETTINGS_FILE).is_file())
    ):
        raise InputError(f"{folder}: exists and holds no earlier demo; not overwritten")
    shutil.rmtree(folder, ignore_errors=True)
    write_atomically(folder / SETTINGS_FILE, config_to_yaml(config).encode())


def page(folder: Path, metrics: dict[str, Any], log: list[Log], config: Config) -> str:
    """The HTML of the summary page; pictures are linked relative to the folder."""

    def pictures(pattern: str) -> str:
        files = sorted(folder.glob(pattern))
        return "".join(
            f'<a href="{f.relative_to(folder)}"><img src="{f.relative_to(folder)}" alt="{f.stem}"></a>'
            for f in files
        )

    def row(kind: str) -> str:
        cells = "".join(
            f"<td><b>{v:.3f}</b><br>{html.escape(k)}</td>"
            for k, v in metrics[kind].items()
            if isinstance(v, float)
        )
        return f"<tr><th>{kind}</th>{cells}</tr>"

    stages = ", ".join(f"{name} {value:g} s" for name, value in metrics["seconds"].items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>PersonLab demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }}
h1, h2 {{ font-weight: 600 }} table {{ border-collapse: collapse }} th {{ text-align: left; padding-right: 1rem }}
td {{ padding: .3rem .8rem; text-align: center; border-bottom: 1px solid #ddd; font-size: .85rem }} td b {{ font-size: 1.05rem }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .5rem }} .grid img {{ width: 100% }}
.wide {{ grid-template-columns: repeat(auto-fill, minmax(32rem, 1fr)) }} svg {{ width: 100%; height: 20rem }}
</style></head><body>
<h1>PersonLab demo</h1>
<p>A network of {metrics["weights"]:,} weights, trained {config.train.steps} steps of {config.train.batch_size} on
{config.demo.train_scenes} synthetic scenes, judged on {config.demo.val_scenes} others by pycocotools. {stages}.</p>
<h2>Metrics</h2><table>{row("keypoints")}{row("segmentation")}</table>
<h2>People found in held-out scenes</h2><div class="grid">{pictures("predictions/*.overlay.jpg")}</div>
<h2>Training loss</h2>{loss_curve(log)}
<h2>Targets</h2><div class="grid wide">{pictures("targets/*.png")}</div>
</body></html>
"""


def loss_curve(log: list[Log]) -> str:
    """An SVG of the losses of a log over its steps, on a logarithmic axis."""
    names = [name for name in log[0] if name == "loss" or name.startswith("loss/")] if log else []
    values = {
        name: [(line["step"], line[name]) for line in log if line.get(name, 0.0) > 0.0]
        for name in names
    }
    flat = [value for series in values.values() for _, value in series]
    if not flat:
        return "<p>No steps were logged.</p>"
    low, high = math.floor(math.log10(min(flat))), math.ceil(math.log10(max(flat)) + 1e-9)
    last = max(line["step"] for line in log)
    colours = ("#222", "#d1495b", "#00798c", "#edae49", "#30638e", "#8f2d56")

    def place(step: float, value: float) -> str:
        return f"{60 + 700 * step / last:.1f},{280 - 260 * (math.log10(value) - low) / max(1, high - low):.1f}"

    lines, keys = [], []
    for number, (name, series) in enumerate(values.items()):
        colour = colours[number % len(colours)]
        points = " ".join(place(step, value) for step, value in series)
        lines.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>'
        )
        label = html.escape(name.removeprefix("loss/"))
        keys.append(f'<text x="775" y="{30 + 20 * number}" fill="{colour}">{label}</text>')
    for exponent in range(low, high + 1):
        y = 280 - 260 * (exponent - low) / max(1, high - low)
        lines.append(f'<line x1="60" x2="760" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        keys.append(f'<text x="52" y="{y + 4:.1f}" text-anchor="end">{10.0**exponent:g}</text>')
    keys.append(f'<text x="760" y="300" text-anchor="end">step {int(last)}</text>')
    return f'<svg viewBox="0 0 900 310" font-size="13">{"".join(lines)}{"".join(keys)}</svg>'
