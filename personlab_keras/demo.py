"""`personlab demo`: the whole pipeline on synthetic scenes, and a page with the results."""

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
from string import Template
from typing import Any

from data_prep.build import prepare
from data_prep.inspection import draw_records
from personlab_keras.config import Config, config_to_yaml
from personlab_keras.errors import InputError, Stopped
from personlab_keras.evaluation import evaluate
from personlab_keras.export.export import export_model
from personlab_keras.export.saved_model.signatures import check_backend
from personlab_keras.inference.predict import load
from personlab_keras.inference.predict_files import predict_files
from personlab_keras.io.files import make_folder, write_atomically
from personlab_keras.io.images import list_images
from personlab_keras.method.skeleton import COCO_PERSON
from personlab_keras.synthetic import write_dataset
from personlab_keras.training.run_log import Log, read_log
from personlab_keras.training.train import train

SETTINGS_FILE = "demo.yaml"
SHOWN = 12
"""Number of target drawings and of overlays on the page."""

_TEMPLATE = Template((Path(__file__).parent / "demo.html").read_text(encoding="utf-8"))

Progress = Callable[[str], Callable[[int, int], None]]


def demo(
    out: str | Path, config: Config, progress: Progress, say: Callable[[str], None]
) -> dict[str, Any]:
    """Draws scenes, writes records, trains, exports, evaluates on held-out scenes, draws overlays,
    and writes `index.html`.

    Args:
        out: a folder that does not exist, is empty, or contains an earlier demo, which is replaced.
        progress: starts a progress bar: its label -> a function (done, total).
        say: takes one line of output.

    Returns:
        Keypoint and mask metrics, seconds per stage and the number of weights, as in
        `metrics.json`.

    Raises:
        InputError: `out` contains something else, or Keras does not run on TensorFlow.
    """
    check_backend()
    folder = Path(out)
    _claim(folder, config)
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - began, 1)
        say(f"{name}: {seconds[name]} s")

    with stage("scenes"):
        _draw_scenes(folder, config, progress)
    with stage("records"):
        _write_records(folder, config, progress)
    with stage("training"):
        network = _train(folder, config, progress("training steps"), say)
    with stage("export"):
        provenance = {
            "trained_on": f"{config.demo.train_scenes} synthetic scenes",
            "trained_steps": config.train.steps,
        }
        export_model(network, config, COCO_PERSON, folder / "exported", provenance)
    scenes = folder / "scenes" / "val"
    with stage("evaluation"):
        # Average precision covers all thresholds, so people of every score count.
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
    weights = sum(math.prod(variable.shape) for variable in network.trainable_variables)
    metrics = {**metrics, "seconds": seconds, "weights": weights}
    write_atomically(folder / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    html_text = page(folder, metrics, read_log(folder / "run"), config)
    write_atomically(folder / "index.html", html_text.encode())
    return metrics


def _draw_scenes(folder: Path, config: Config, progress: Progress) -> None:
    sets = {"train": config.demo.train_scenes, "val": config.demo.val_scenes}
    for seed, (name, count) in enumerate(sets.items()):
        write_dataset(
            folder / "scenes" / name,
            count,
            config.demo.scene_size,
            seed=seed,
            progress=partial(_advance, progress(f"{name} scenes"), count),
        )


def _advance(tick: Callable[[int, int], None], total: int, done: int) -> None:
    tick(done, total)


def _write_records(folder: Path, config: Config, progress: Progress) -> None:
    for name in ("train", "val"):
        scenes = folder / "scenes" / name
        prepare(
            scenes / "annotations.json",
            scenes / "images",
            folder / "records" / name,
            config,
            progress=progress(f"{name} views"),
        )
    draw_records(folder / "records" / "val", folder / "targets", SHOWN)


def _train(
    folder: Path, config: Config, tick: Callable[[int, int], None], say: Callable[[str], None]
) -> Any:
    def report(log: Log) -> None:
        others = [f"{name} {value:.3g}" for name, value in log.items() if name != "step"]
        say("  ".join([f"step {int(log['step'])}", *others]))
        tick(int(log["step"]), config.train.steps)

    try:
        return train(folder / "records" / "train", folder / "run", config, report=report)
    except Stopped:  # the next demo starts anew
        raise KeyboardInterrupt from None


def _claim(folder: Path, config: Config) -> None:
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / SETTINGS_FILE).is_file())
    ):
        raise InputError(f"{folder}: exists and is not an earlier demo; not overwritten")
    make_folder(folder.parent)
    shutil.rmtree(folder, ignore_errors=True)
    write_atomically(folder / SETTINGS_FILE, config_to_yaml(config).encode())


def page(folder: Path, metrics: dict[str, Any], log: list[Log], config: Config) -> str:
    """The HTML text of `index.html`; links to pictures are relative to the folder."""
    seconds = metrics["seconds"].items()
    return _TEMPLATE.substitute(
        weights=f"{metrics['weights']:,}",
        steps=config.train.steps,
        batch_size=config.train.batch_size,
        train_scenes=config.demo.train_scenes,
        val_scenes=config.demo.val_scenes,
        stages=", ".join(f"{name} {value:g} s" for name, value in seconds),
        metrics="".join(_table_row(kind, metrics[kind]) for kind in ("keypoints", "segmentation")),
        overlays=_pictures(folder, "predictions/*.overlay.jpg"),
        loss_curve=loss_curve(log),
        targets=_pictures(folder, "targets/*.png"),
    )


def _table_row(kind: str, values: dict[str, Any]) -> str:
    cells = "".join(
        f"<td><b>{value:.3f}</b><br>{html.escape(name)}</td>"
        for name, value in values.items()
        if isinstance(value, float)
    )
    return f"<tr><th>{kind}</th>{cells}</tr>"


def _pictures(folder: Path, pattern: str) -> str:
    links = {path.stem: path.relative_to(folder) for path in sorted(folder.glob(pattern))}
    return "".join(
        f'<a href="{link}"><img src="{link}" alt="{stem}"></a>' for stem, link in links.items()
    )


def loss_curve(log: list[Log]) -> str:
    """The losses of a log over its steps as an SVG with a logarithmic axis."""
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
