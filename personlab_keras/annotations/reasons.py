"""All faults of a data set's images and annotations, and how each is handled; docs/data-format.md
has the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum

from personlab_keras.errors import InputError
from personlab_keras.method.targets import MAX_PERSONS

EXAMPLES = 5
"""Number of examples kept per reason."""
_LONGEST = 200
"""Longest example in characters."""


class Reason(Enum):
    """Why something was skipped or repaired; the value is its name in `meta.json`. Parentheses say
    what happened if it was not skipped.
    """

    IMAGE_MALFORMED = "image entry malformed"
    IMAGE_REPEATED = "image listed twice (one kept)"
    IMAGE_ID_SHARED = "image id shared by different images"
    IMAGE_OUTSIDE = "image outside the folder"
    IMAGE_MISSING = "image missing"
    IMAGE_EMPTY = "image of zero bytes"
    IMAGE_UNREADABLE = "image unreadable"
    IMAGE_TOO_LARGE = "image too large"
    IMAGE_SIZE = "image of another size than annotated"
    IMAGE_TURNED = "image with an EXIF orientation (kept; read as data.annotation_frame says)"
    IMAGE_INCOMPLETE = "image not annotated completely (only what is annotated counts)"
    IMAGE_NEGATIVE = "image without people (data.negatives is false)"
    LABELS_UNREADABLE = "label file unreadable (image left out)"
    ANNOTATION_MALFORMED = "annotation malformed"
    ANNOTATION_UNKNOWN_IMAGE = "annotation of an unknown image"
    ANNOTATION_OTHER_CATEGORY = "annotation of another category"
    CATEGORY_MISSING = "annotation without a category (masked as crowd)"
    ANNOTATION_REPEATED = "annotation listed twice (one kept)"
    ANNOTATION_ID = "annotation id malformed or shared (person kept)"
    KEYPOINTS_MALFORMED = "keypoints missing or malformed (person kept without)"
    KEYPOINT_MALFORMED = "keypoint that is not three finite numbers (person kept without it)"
    KEYPOINT_OUTSIDE = "keypoint outside the image (person kept without it)"
    COUNT_DISAGREES = "num_keypoints disagrees with the keypoints (keypoints believed)"
    BOX_MALFORMED = "box missing or malformed (taken from mask or keypoints)"
    AREA_MALFORMED = "area missing, malformed or impossible (taken from mask or box)"
    MASK_MISSING = "mask missing (person kept)"
    MASK_DAMAGED = "mask damaged (person kept)"
    POLYGON_DROPPED = "polygon malformed or of fewer than three points (rest of the mask kept)"
    CROWD_DAMAGED = "crowd region without a usable mask (its box taken)"
    PERSON_UNKNOWN = "person with neither keypoints nor mask (its box masked as crowd)"
    PERSON_NOWHERE = "person with neither keypoints, mask nor box (whole image masked as crowd)"
    PERSON_BEYOND = f"person beyond the {MAX_PERSONS} largest of an image (masked as crowd)"

    @property
    def fault(self) -> bool:
        """Whether it is a fault of the data set, at which `strict` stops, rather than a setting."""
        return self not in (
            Reason.IMAGE_TURNED,
            Reason.IMAGE_INCOMPLETE,
            Reason.IMAGE_NEGATIVE,
            Reason.ANNOTATION_OTHER_CATEGORY,
            Reason.MASK_MISSING,
            Reason.PERSON_BEYOND,
        )


class Tally:
    """Counts by reason, in order of occurrence, with a few examples of each.

    Args:
        strict: stop at the first fault.
        source: precedes the example in errors.
    """

    def __init__(self, strict: bool = False, source: str = "") -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self._strict = strict
        self._source = source

    def add(self, reason: Reason, example: str) -> None:
        """Counts one case.

        Raises:
            InputError: if it is a fault and the tally is strict.
        """
        example = example if len(example) <= _LONGEST else f"{example[: _LONGEST - 3]}..."
        if self._strict and reason.fault:
            raise InputError(
                f"{self._source}{': ' if self._source else ''}{example} [{reason.value}]"
            )
        self.counts[reason.value] += 1
        kept = self.examples.setdefault(reason.value, [])
        if len(kept) < EXAMPLES:
            kept.append(example)

    def merge(self, counts: Mapping[str, int], examples: Mapping[str, list[str]]) -> None:
        """Adds the counts of another tally.

        Raises:
            InputError: if they include a fault and this tally is strict.
        """
        for reason in counts:
            if self._strict and Reason(reason).fault:
                raise InputError(
                    f"{self._source}{': ' if self._source else ''}{examples[reason][0]} [{reason}]"
                )
        self.counts.update(counts)
        for reason, found in examples.items():
            kept = self.examples.setdefault(reason, [])
            kept += found[: EXAMPLES - len(kept)]

    def __str__(self) -> str:
        cases = (
            f"{count} {reason} ({self.examples[reason][0]})"
            for reason, count in self.counts.most_common()
        )
        return ", ".join(cases) or "nothing"
