"""Reading the text of a compiled XLA program into computations of instructions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
    r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>\(.*?\)(?= [a-z])|\S+) "
    r"(?P<operation>[a-z][a-z0-9\-]*)\((?P<rest>.*)$"
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")


@dataclass(frozen=True)
class Array:
    """An array of a program.

    Attributes:
        bytes: of its elements.
        padded_bytes: with what rounding up to whole tiles adds: what it takes in memory.
        space: number of the memory that it lies in; 0 is the main memory of a device, HBM.
    """

    bytes: int
    padded_bytes: int
    space: int


@dataclass(frozen=True)
class Instruction:
    """A step of a computation.

    Attributes:
        name: unique within the computation.
        operation: as XLA names it, such as "fusion".
        arrays: of the result, those of a tuple one after another.
        operands: names of instructions of the same computation.
        arguments: the text between the parentheses: of a parameter its number.
        attributes: the text behind them.
        root: whether its result is that of the computation.
    """

    name: str
    operation: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    root: bool

    def called(self, role: str = "calls") -> str | None:
        """Name of the computation that it calls in this role, None if there is none."""
        match = re.search(rf"\b{role}=%?([\w.\-]+)", self.attributes)
        return None if match is None else match[1]


Computation = Mapping[str, Instruction]
"""The instructions of a computation by name, in their order."""


@dataclass(frozen=True)
class Computations:
    """All computations of a program by name; `entry` names that which runs first."""

    by_name: Mapping[str, Computation]
    entry: str


def read_computations(text: str) -> Computations:
    """Reads the text of a program, as `jax.stages.Compiled.as_text` gives it."""
    found: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = None if line.startswith(" ") else _COMPUTATION.match(line)
        if head is not None:
            current = found.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)) is not None:
            arguments, attributes = _split(match["rest"])
            current[match["name"]] = Instruction(
                match["name"],
                match["operation"],
                tuple(_arrays(match["type"])),
                tuple(re.findall(r"%([\w.\-]+)", arguments)),
                arguments,
                attributes,
                match["root"] is not None,
            )
    return Computations(found, entry)


def _split(rest: str) -> tuple[str, str]:
    """What lies before the parenthesis that closes the arguments, and what behind it.

    >>> _split("%a, (%b)), slice={[0:8]}")
    ('%a, (%b)', ', slice={[0:8]}')
    """
    depth = 0
    for at, letter in enumerate(rest):
        depth += (letter in "({[") - (letter in ")}]")
        if depth < 0:
            return rest[:at], rest[at + 1 :]
    return rest, ""


def _arrays(result: str) -> Iterator[Array]:
    """The arrays of a type.

    >>> list(_arrays("bf16[8,51,51,64]{3,0,2,1:T(8,128)(2,1)S(1)}"))
    [Array(bytes=2663424, padded_bytes=5326848, space=1)]
    """
    for kind, sides, order, layout in _ARRAY.findall(result):
        width = _width(kind)
        shape = [int(side) for side in sides.split(",") if side]
        tile = re.match(r"T\(([\d,]+)\)", layout)
        space = re.search(r"\bS\((\d+)\)", layout)
        padded = list(shape)
        if tile is not None and order:
            sizes = [int(side) for side in tile[1].split(",")][::-1]
            # The layout names axes from the one whose neighbours lie side by side.
            for axis, size in zip(order.split(","), sizes, strict=False):
                padded[int(axis)] = -(-shape[int(axis)] // size) * size
        yield Array(
            math.ceil(width * math.prod(shape)),
            math.ceil(width * math.prod(padded)),
            int(space[1]) if space is not None else 0,
        )


def _width(kind: str) -> float:
    """Bytes of an element.

    >>> _width("bf16"), _width("pred"), _width("f8e4m3fn")
    (2.0, 1.0, 1.0)
    """
    digits = re.match(r"[a-z]+(\d+)", kind)
    return int(digits[1]) / 8 if digits else 1.0
