"""Reading the text of a compiled XLA program: what it moves, what it sends between chips, where it
gathers and scatters, and what its tiles waste.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from personlab_keras.compilation.instructions import Array, read_computations
from personlab_keras.compilation.memory_traffic import Traffic, program_traffic

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
"""XLA's names of the operations by which chips exchange data."""

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
        memory: bytes read from and written to the main memory of a device.
        collectives: by kind.
        gathers, scatters: how many.
        result_bytes: of everything that the steps of the program write, to any memory.
        padding_bytes: what rounding up to whole tiles adds to them.
        estimated_cycles: that the compiler expects the steps to take, as far as it says so; 0 where
            it does not.
    """

    memory: Traffic
    collectives: Mapping[str, Exchange]
    gathers: int
    scatters: int
    result_bytes: int
    padding_bytes: int
    estimated_cycles: int


def read_program(text: str) -> Program:
    """Reads the text of a program, as `jax.stages.Compiled.as_text` gives it."""
    computations = read_computations(text)
    exchanged: dict[str, list[int]] = {}
    counts = {"gather": 0, "scatter": 0}
    for computation in computations.by_name.values():
        for instruction in computation.values():
            kind = instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                exchanged.setdefault(kind, []).extend(array.bytes for array in instruction.arrays)
            elif kind in counts:
                counts[kind] += 1
    steps = computations.by_name[computations.entry].values()
    written: list[Array] = [
        array
        for step in steps
        if step.operation not in _WITHOUT_MEMORY and not step.operation.endswith("-start")
        for array in step.arrays
    ]
    cycles = (re.search(r'"estimated_cycles":"(\d+)"', step.attributes) for step in steps)
    return Program(
        program_traffic(computations),
        {kind: Exchange(len(sizes), sum(sizes)) for kind, sizes in sorted(exchanged.items())},
        counts["gather"],
        counts["scatter"],
        sum(array.bytes for array in written),
        sum(array.padded_bytes - array.bytes for array in written),
        sum(int(each[1]) for each in cycles if each is not None),
    )
