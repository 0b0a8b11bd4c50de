"""How large should an image be for the network, how fine its maps, and do more views of it pay?

    python benchmarks/input_size.py --model STRIDE16 STRIDE8 --annotations JSON --images DIR
    --longer-side 401 801 1201 --flip

Prints a row of a Markdown table for every model and longer side, and with `--flip` and `--scales`
more rows for every one: keypoint and mask AP, and the median milliseconds per image of the network
and of the decoder."""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from personlab_keras.evaluation import evaluate
from personlab_keras.inference.predict import load

COLUMNS = (
    "stride",
    "longer side",
    "scales",
    "flip",
    "keypoint AP",
    "AP50",
    "APm",
    "APl",
    "mask AP",
    "network ms",
    "decode ms",
)


@dataclass(frozen=True)
class Setting:
    """How a model looks at an image."""

    model: Path
    longer_side: int
    scales: tuple[float, ...]
    flip: bool

    def overrides(self) -> list[str]:
        return [
            f"predict.longer_side={self.longer_side}",
            f"predict.scales={list(self.scales)}",
            f"predict.flip={str(self.flip).lower()}",
            "decode.score_threshold=0",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, nargs="+", required=True, help="model directories, one per stride"
    )
    parser.add_argument("--annotations", required=True, help="COCO person keypoints JSON")
    parser.add_argument("--images", required=True, help="folder of its images")
    parser.add_argument(
        "--longer-side", type=int, nargs="+", default=[401, 513, 641, 801, 1001, 1201, 1401]
    )
    parser.add_argument("--flip", action="store_true", help="with and without the mirrored image")
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        action="append",
        default=[],
        help="also at these; may be repeated",
    )
    parser.add_argument("--limit", type=int, help="only the first so many images")
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |")
    print("| --- " * len(COLUMNS) + "|")
    for setting in settings(options):
        print(row(setting, options), flush=True)


def settings(options: argparse.Namespace) -> Iterator[Setting]:
    for model in options.model:
        for longer_side in options.longer_side:
            for scales in ([1.0], *options.scales):
                for flip in (False, True) if options.flip else (False,):
                    yield Setting(model, longer_side, tuple(scales), flip)


def row(setting: Setting, options: argparse.Namespace) -> str:
    predictor = load(setting.model, setting.overrides())
    with tempfile.TemporaryDirectory() as out:
        metrics = evaluate(predictor, options.annotations, options.images, out, limit=options.limit)
    keypoints, masks, times = metrics["keypoints"], metrics["segmentation"], metrics["timings_ms"]
    values = (
        str(predictor.stride),
        str(setting.longer_side),
        " ".join(f"{scale:g}" for scale in setting.scales),
        "yes" if setting.flip else "no",
        *(f"{keypoints[name]:.3f}" for name in ("AP", "AP50", "APm", "APl")),
        f"{masks['AP']:.3f}" if masks else "",
        *(f"{times[stage]['median']:.0f}" for stage in ("network", "decode")),
    )
    return f"| {' | '.join(values)} |"


if __name__ == "__main__":
    main()
