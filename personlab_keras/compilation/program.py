"""Reading the text of a compiled XLA program: what it sends between chips, where it gathers and
scatters, and what its tiles waste.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
"""XLA's names of the operations by which chips exchange data."""

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_WITHOUT_MEMORY = ("bitcast", "get-tuple-element", "tuple", "parameter", "constant")
"""Operations whose result is memory that another one has filled."""


@dataclass(frozen=True)
class Exchange:
    """The collectives of one kind in a program: how many arrays they exchange, and the bytes of
    these on one chip.
    """

    arrays: int
    bytes: int


@dataclass(frozen=True)
class Program:
    """What the text of a compiled program says.

    Attributes:
        collectives: by kind.
        gathers, scatters: how many.
        result_bytes: of everything that the steps of the program write.
        padding_bytes: what rounding up to whole tiles adds to them.
        estimated_cycles: that the compiler expects the steps to take, as far as it says so; 0 where
            it does not.
    """

    collectives: Mapping[str, Exchange]
    gathers: int
    scatters: int
    result_bytes: int
    padding_bytes: int
    estimated_cycles: int


def read_program(text: str) -> Program:
    """Reads the text of a program, as `jax.stages.Compiled.as_text` gives it."""
    exchanged: dict[str, list[int]] = {}
    counts = {"gather": 0, "scatter": 0}
    for result, operation in _instructions(text):
        kind = operation.removesuffix("-start")
        if kind in COLLECTIVES:
            exchanged.setdefault(kind, []).extend(size for size, _ in _sizes(result))
        elif operation in counts:
            counts[operation] += 1
    steps = text[text.index("\nENTRY ") :] if "\nENTRY " in text else text
    written = [
        sizes
        for result, operation in _instructions(steps)
        if operation not in _WITHOUT_MEMORY and not operation.endswith("-start")
        for sizes in _sizes(result)
    ]
    return Program(
        {kind: Exchange(len(sizes), sum(sizes)) for kind, sizes in sorted(exchanged.items())},
        counts["gather"],
        counts["scatter"],
        sum(size for size, _ in written),
        sum(padded - size for size, padded in written),
        sum(int(cycles) for cycles in re.findall(r'"estimated_cycles":"(\d+)"', steps)),
    )


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """(type of the result, operation) of every instruction."""
    for line in text.splitlines():
        match = _INSTRUCTION.match(line)
        if match is not None:
            yield match[1], match[2]


def _sizes(result: str) -> Iterator[tuple[int, int]]:
    """(bytes, bytes in whole tiles) of every array of a type.

    >>> list(_sizes("bf16[8,51,51,64]{3,0,2,1:T(8,128)(2,1)}"))
    [(2663424, 5326848)]
    """
    for kind, sides, order, layout in _ARRAY.findall(result):
        width = _width(kind)
        shape = [int(side) for side in sides.split(",") if side]
        tile = re.match(r"T\(([\d,]+)\)", layout)
        padded = list(shape)
        if tile is not None and order:
            sizes = [int(side) for side in tile[1].split(",")][::-1]
            # The layout names axes from the one whose neighbours lie side by side.
            for axis, size in zip(order.split(","), sizes, strict=False):
                padded[int(axis)] = -(-shape[int(axis)] // size) * size
        yield math.ceil(width * math.prod(shape)), math.ceil(width * math.prod(padded))


def _width(kind: str) -> float:
    """Bytes of an element.

    >>> _width("bf16"), _width("pred"), _width("f8e4m3fn")
    (2.0, 1.0, 1.0)
    """
    digits = re.match(r"[a-z]+(\d+)", kind)
    return int(digits[1]) / 8 if digits else 1.0
