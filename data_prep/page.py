"""The page of `personlab inspect --out`: one self-contained HTML file about a records folder."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np

from personlab_keras.data.records import Meta, Record, view_image
from personlab_keras.drawing import draw, person_colour
from personlab_keras.io.images import decode_image
from personlab_keras.method.person import Person
from personlab_keras.method.targets import IGNORE_CROWD, IGNORE_MASKLESS, IGNORE_UNANNOTATED

_TEMPLATE = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
_THUMBNAIL = 360
"""Longest side in pixels of a view on the contact sheet."""
_DRAWING = 1100
"""Width in pixels of drawn targets on the page."""
_IGNORED = {
    IGNORE_CROWD: ("nothing known (crowd)", (214, 73, 91)),
    IGNORE_UNANNOTATED: ("person without keypoints", (237, 174, 73)),
    IGNORE_MASKLESS: ("person without mask", (122, 92, 201)),
}
"""Flag -> name and RGB of its cells."""


def page(
    title: str,
    counts: Mapping[str, Any],
    views: Sequence[Record],
    meta: Meta,
    drawings: Sequence[Path],
) -> str:
    """The page as HTML text.

    Args:
        counts: as returned by `statistics.summary`.
        views: shown on the contact sheet.
        drawings: image files of drawn targets, embedded at reduced size.
    """
    facts = (
        f"Views: {counts['views']:,}. Persons: {counts['persons']:,}. Shards: {counts['shards']:,}"
    )
    settings = f"View size {counts['view_size']} px, stride {counts['stride']}, radius {counts['radius']:g}, skeleton {counts['skeleton']}"
    shares = counts["share of cells"]
    ignored = {
        name: shares[name] for name in ("crowd", "unannotated person", "person without mask")
    }
    covered = {name: shares[name] for name in ("person", "overlap", "within a disc")}
    histograms = [
        _bars("People in a view", counts["people per view"]),
        _bars("Labelled keypoints of a person", counts["labelled keypoints per person"]),
        _bars(
            "Size of people (side of a square of their area, by the view's)",
            counts["sizes of people"],
        ),
        _bars("Labelled keypoints by name", counts["labelled keypoints"]),
        _bars("Cells covered", covered, share=True),
        _bars("Cells excluded from the losses, by reason", ignored, share=True),
    ]
    return _TEMPLATE.substitute(
        title=html.escape(title),
        facts=facts,
        settings=html.escape(settings),
        bytes_per_view=f"{counts['bytes per view']:,}",
        target_bytes_per_view=f"{counts['bytes of targets per view']:,}",
        bars="\n".join(histograms),
        faults=_faults(counts["skipped"], counts["examples"], counts["damaged"]),
        choices=_choices(views),
        key="".join(
            f'<i style="background:rgb{colour}"></i>{name}' for name, colour in _IGNORED.values()
        ),
        sheet="".join(_thumbnail(record, meta) for record in views),
        drawings="".join(_drawing(path) for path in drawings),
    )


def _bars(title: str, values: Mapping[str, float], share: bool = False) -> str:
    most = max(values.values(), default=0) or 1
    rows = "".join(
        f"<tr{'' if value else ' class=none'}><td>{html.escape(str(name))}</td>"
        f'<td><div class="bar" style="width:{100 * value / most:.1f}%"></div></td>'
        f"<td>{f'{value:.2%}' if share else f'{value:,}'}</td></tr>"
        for name, value in values.items()
    )
    return f'<div><h3>{html.escape(title)}</h3><table class="bars">{rows}</table></div>'


def _faults(
    skipped: Mapping[str, int], examples: Mapping[str, Sequence[str]], damaged: Sequence[str]
) -> str:
    rows = [(reason, count, examples.get(reason, ())) for reason, count in skipped.items()]
    if damaged:
        rows.append(("damaged record (skipped)", len(damaged), damaged[:5]))
    if not rows:
        return "<p>Nothing.</p>"
    lines = "".join(
        f"<tr><td>{html.escape(reason)}</td><td>{count:,}</td><td><code>{'<br>'.join(map(html.escape, some))}</code></td></tr>"
        for reason, count, some in rows
    )
    return f'<table class="faults"><tr><th>reason</th><th>cases</th><th>first cases</th></tr>{lines}</table>'


def _kind(record: Record) -> str:
    return "with people" if len(record.person_ids) else "without people"


def _choices(views: Sequence[Record]) -> str:
    kinds = sorted({_kind(record) for record in views})
    return "".join(
        f'<label><input type="checkbox" checked data-kind="{kind}"> {kind}</label>'
        for kind in kinds
    )


def _thumbnail(record: Record, meta: Meta) -> str:
    labelled = int(record.targets.keypoints[..., 2].sum())
    caption = f"image {record.image_id}, view {record.view}. Persons: {len(record.person_ids)}, keypoints: {labelled}"
    return _picture(drawn(record, meta), caption, _kind(record))


def _drawing(path: Path) -> str:
    drawing = decode_image(path.read_bytes(), str(path))
    scale = min(1.0, _DRAWING / drawing.shape[1])
    return _picture(
        cv2.resize(drawing, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), path.stem
    )


def _picture(pixels: np.ndarray, caption: str, kind: str = "") -> str:
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85]
    )
    source = f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
    text = html.escape(caption)
    return f'<figure data-kind="{kind}"><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def drawn(record: Record, meta: Meta) -> np.ndarray:
    """(H, W, 3) uint8 RGB: a reduced view with the cells of its persons tinted, ignored cells
    hatched and labelled keypoints drawn as skeletons.
    """
    view = view_image(record, meta)
    scale = min(1.0, _THUMBNAIL / max(view.shape))
    size = (max(1, round(view.shape[1] * scale)), max(1, round(view.shape[0] * scale)))
    canvas = cv2.resize(view, size, interpolation=cv2.INTER_AREA)
    targets = record.targets

    # Cells are points: a pixel shows the nearest.
    rows, columns = (
        np.rint(np.linspace(0, targets.instance.shape[axis] - 1, size[1 - axis])).astype(int)
        for axis in (0, 1)
    )

    colours = [np.array(person_colour(i)) for i in range(len(record.person_ids))]
    instance, ignore = (
        cells[np.ix_(rows, columns)] for cells in (targets.instance, targets.ignore)
    )
    for i, colour in enumerate(colours, start=1):
        canvas[instance == i] = np.rint(0.6 * canvas[instance == i] + 0.4 * colour)
    y, x = np.indices(ignore.shape)
    for flag, (_, shade) in _IGNORED.items():
        canvas[(ignore & flag > 0) & ((x + y) % 9 < 3)] = shade
    people = []
    for person in targets.keypoints:
        labelled = person[:, 2] > 0
        points = np.where(labelled[:, None], (person[:, :2] + 0.5) * scale - 0.5, np.nan)
        people.append(Person(points, labelled.astype(float), 1.0))
    return draw(canvas, people, meta.skeleton)
