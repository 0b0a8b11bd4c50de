"""The model card of a model directory, in the form that hubs show."""

from __future__ import annotations

from typing import Any

import yaml

from personlab_keras.io.files import read_json
from personlab_keras.model_directory import ModelDirectory

METRICS_FILE = "metrics.json"
"""File of `personlab evaluate`; beside `personlab.json`, it goes into the card."""


def model_card(directory: ModelDirectory, name: str) -> str:
    """Text of README.md: a header for the hub, what the network is, its metrics, how to use it."""
    provenance = dict(directory.provenance)
    licence = str(provenance.get("licence") or provenance.get("license") or "other").lower()
    header = {
        "library_name": "personlab-keras",
        "pipeline_tag": "keypoint-detection",
        "license": licence,
        "tags": ["keras", "pose-estimation", "instance-segmentation", "personlab"],
    }
    model, masks = directory.config.model, directory.config.decode.masks
    facts = {
        "backbone": f"{model.backbone} x{model.alpha:g}",
        "output stride": str(directory.stride),
        "predicts": "keypoints and instance masks" if masks else "keypoints",
        "skeleton": f"{directory.skeleton.name}, {directory.skeleton.keypoint_count} keypoints",
        "longer side of the input": f"{directory.config.predict.longer_side} pixels",
        **{key: str(value) for key, value in provenance.items() if not isinstance(value, dict)},
    }
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {name.split('/')[-1]}",
        "A network of [PersonLab](https://arxiv.org/abs/1803.08225) for Keras: every person in a "
        "photo, in one pass of one network.",
        _table(("", ""), list(facts.items())),
    ]
    path = directory.folder / METRICS_FILE
    if path.is_file():
        sections += ["## Metrics", _metrics(read_json(path))]
    use = f'import personlab_keras as personlab\n\npredictor = personlab.load("hf://{name}")'
    sections += ["## Use", f"```python\n{use}\n```"]
    return "\n\n".join(sections) + "\n"


def _metrics(metrics: dict[str, Any]) -> str:
    kinds = {kind: metrics.get(kind) or {} for kind in ("keypoints", "segmentation")}
    names = [name for name in ("AP", "AP50", "AP75", "APm", "APl") if name in kinds["keypoints"]]
    rows = [
        (kind, *(_figure(values.get(name)) for name in names))
        for kind, values in kinds.items()
        if values
    ]
    judged = f"COCO metrics on {metrics.get('images', 'unknown')} images:"
    return f"{judged}\n\n{_table(('', *names), rows)}"


def _figure(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else ""


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    # Values come from a file that anybody may have written.
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in line)} |"
        for line in lines
    )
