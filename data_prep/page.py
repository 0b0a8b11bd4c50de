"""`personlab inspect --out`: one HTML file in which a person can look through a records folder; it
needs nothing beside it.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from personlab_keras.data.records import Record
from personlab_keras.drawing import person_colour
from personlab_keras.io.images import decode_image
from personlab_keras.method.skeleton import Skeleton
from personlab_keras.method.targets import IGNORE_CROWD, IGNORE_MASKLESS, IGNORE_UNANNOTATED

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
    skeleton: Skeleton,
    drawings: Sequence[Path],
) -> str:
    """The page.

    Args:
        counts: as `statistics.summary` gives them.
        views: for the contact sheet.
        drawings: files of drawn targets; the page has them smaller.
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
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222 }}
h1, h2 {{ font-weight: 600 }} h1 {{ overflow-wrap: anywhere }} h3 {{ font-weight: 600; font-size: 1rem; margin: 0 0 .4rem }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); gap: 1.5rem }}
.sheet {{ grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: .6rem }}
.sheet img, .wide img {{ width: 100%; display: block }}
.wide {{ grid-template-columns: repeat(auto-fill, minmax(min(32rem, 100%), 1fr)) }}
figure {{ margin: 0 }} figcaption, .note {{ color: #555; font-size: .85rem }}
table {{ border-collapse: collapse; width: 100%; font-size: .85rem; table-layout: fixed }}
td, th {{ padding: .1rem .4rem; text-align: left; font-weight: 400; vertical-align: top; overflow-wrap: anywhere }}
.bars td:first-child {{ width: 9.5rem }} .bars td:last-child {{ width: 5rem; text-align: right }}
.bar {{ background: #00798c; height: .8rem; margin-top: .3rem; min-width: 1px }} .none .bar {{ background: none }}
.faults td, .faults th {{ border-bottom: 1px solid #ddd }} .faults th:nth-child(2) {{ width: 5rem }} code {{ font-size: .8rem }}
.key i {{ display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 .9rem }}
label {{ margin-right: 1rem }} .hidden {{ display: none }}
</style></head><body>
<h1>{html.escape(title)}</h1>
<p>{facts}. {html.escape(settings)}. {counts["bytes per view"]:,} bytes a view, of which {counts["bytes of targets per view"]:,} are
targets.</p>
<h2>What is in it</h2>
<div class="grid">
{_bars("People in a view", counts["people per view"])}
{_bars("Labelled keypoints of a person", counts["labelled keypoints per person"])}
{_bars("Size of people (side of a square of their area, by the view's)", counts["sizes of people"])}
{_bars("Labelled keypoints by name", counts["labelled keypoints"])}
{_bars("Cells covered", covered, share=True)}
{_bars("Cells that do not count, and why", ignored, share=True)}
</div>
<h2>What was left out or mended</h2>
{_faults(counts["skipped"], counts["examples"], counts["damaged"])}
<h2>Contact sheet</h2>
<p class="key">Chosen by the seed. {_choices(views)}<br>Edges join labelled keypoints; tints are persons, hatching is what does not count:
{"".join(f'<i style="background:rgb{colour}"></i>{name}' for name, colour in _IGNORED.values())}</p>
<div class="grid sheet">{"".join(_thumbnail(record, skeleton) for record in views)}</div>
<h2>Targets</h2>
<div class="grid wide">{"".join(_drawing(path) for path in drawings)}</div>
<script>
for (const box of document.querySelectorAll("input[data-kind]"))
  box.addEventListener("change", () => {{
    for (const figure of document.querySelectorAll(`figure[data-kind="${{box.dataset.kind}}"]`))
      figure.classList.toggle("hidden", !box.checked);
  }});
</script>
</body></html>
"""


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
        rows.append(("damaged record (passed over)", len(damaged), damaged[:5]))
    if not rows:
        return "<p>Nothing.</p>"
    lines = "".join(
        f"<tr><td>{html.escape(reason)}</td><td>{count:,}</td><td><code>{'<br>'.join(map(html.escape, some))}</code></td></tr>"
        for reason, count, some in rows
    )
    return f'<table class="faults"><tr><th>reason</th><th>cases</th><th>the first of them</th></tr>{lines}</table>'


def _kind(record: Record) -> str:
    return "with people" if len(record.person_ids) else "without people"


def _choices(views: Sequence[Record]) -> str:
    kinds = sorted({_kind(record) for record in views})
    return "".join(
        f'<label><input type="checkbox" checked data-kind="{kind}"> {kind}</label>'
        for kind in kinds
    )


def _thumbnail(record: Record, skeleton: Skeleton) -> str:
    labelled = int(record.targets.keypoints[..., 2].sum())
    caption = f"image {record.image_id}, view {record.view}. Persons: {len(record.person_ids)}, keypoints: {labelled}"
    return _picture(drawn(record, skeleton), caption, _kind(record))


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


def drawn(record: Record, skeleton: Skeleton) -> np.ndarray:
    """(H, W, 3) uint8 RGB: a view, small, with its persons' cells tinted, what is ignored hatched,
    and its labelled keypoints joined.
    """
    view = decode_image(record.image, f"image {record.image_id}")
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
    for person, colour in zip(targets.keypoints, colours, strict=True):
        points = np.rint((person[:, :2] + 0.5) * scale - 0.5).astype(int)
        for start, end in skeleton.edge_indices[: len(skeleton.edges)]:
            if person[start, 2] and person[end, 2]:
                cv2.line(
                    canvas,
                    points[start].tolist(),
                    points[end].tolist(),
                    colour.tolist(),
                    2,
                    cv2.LINE_AA,
                )
        for point in points[person[:, 2] > 0]:
            cv2.circle(canvas, point.tolist(), 2, (255, 255, 255), -1, cv2.LINE_AA)
    return canvas
