"""Counting the bytes that a compiled program moves from and to the main memory of a device (HBM).

XLA's own count, "bytes accessed", adds up the operands and results of all instructions, wherever
they lie. A TPU's program first brings many of them into the memory beside the arithmetic units
(VMEM), so that count holds the transfer and both its ends. Here only what lies in HBM counts, with
the padding of its tiles, which is moved too: operands once for each instruction that reads them,
results once, and of what is sliced or updated in place the part.

An instruction may read an operand several times where its windows overlap. That is decided inside
the compiler and not in the text, so the count is the least that the program moves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from personlab_keras.compilation.instructions import (
    Array,
    Computation,
    Computations,
    Instruction,
)

_HBM = 0
_NOTHING = ("after-all", "bitcast", "constant", "get-tuple-element", "parameter", "tuple")
"""Operations that move nothing: their result is memory that another one has filled."""
_SLICES = ("slice", "dynamic-slice")
_UPDATE = "dynamic-update-slice"


@dataclass(frozen=True)
class Traffic:
    """Bytes that an instruction or a program moves.

    Attributes:
        read: from the main memory.
        written: to it.
    """

    read: int = 0
    written: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.read + other.read, self.written + other.written)

    def __mul__(self, times: int) -> Traffic:
        return Traffic(self.read * times, self.written * times)


def program_traffic(computations: Computations) -> Traffic:
    """The bytes that a run of a program moves. A loop whose number of rounds the compiler does not
    know counts one; of the branches of a choice the one that moves most.
    """
    return _traffic(computations, computations.entry)


def _traffic(computations: Computations, name: str) -> Traffic:
    computation = computations.by_name[name]
    total = Traffic()
    for instruction in computation.values():
        total += instruction_traffic(computations, computation, instruction)
    return total


def instruction_traffic(
    computations: Computations, computation: Computation, instruction: Instruction
) -> Traffic:
    """The bytes that an instruction of a computation moves."""
    operation = instruction.operation
    if (
        operation in _NOTHING
        or operation.endswith("-done")  # its beginning counts
        # Slices that lie one after the other are named as one array.
        or 'custom_call_target="ConcatBitcast"' in instruction.attributes
    ):
        return Traffic()
    if operation == "while":
        rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.attributes)
        inside = _traffic(computations, str(instruction.called("body")))
        inside += _traffic(computations, str(instruction.called("condition")))
        return inside * (int(rounds[1]) if rounds is not None else 1)
    if operation == "conditional":
        names = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
        branches = (
            re.findall(r"[\w.\-]+", names[1])
            if names is not None
            else [str(instruction.called(f"{side}_computation")) for side in ("true", "false")]
        )
        inside_each = [_traffic(computations, branch) for branch in branches]
        return max(inside_each, key=lambda each: each.read + each.written)
    if operation == "call":
        return _traffic(computations, str(instruction.called("to_apply")))
    operands = [computation[name].arrays for name in instruction.operands]
    results = _results(instruction, sum(len(arrays) for arrays in operands))
    operation = operation.removesuffix("-start")
    if operation in _SLICES:
        return Traffic(_in_hbm(operands[0][0], results[0]), _in_hbm(results[0], results[0]))
    if operation == _UPDATE:
        (update,) = operands[1]
        return Traffic(_in_hbm(update, update), _in_hbm(results[0], update))
    fused = instruction.called() if operation == "fusion" else None
    if fused is None:
        read = sum(_in_hbm(array, array) for arrays in operands for array in arrays)
        return Traffic(read, sum(_in_hbm(array, array) for array in results))
    parts = _parts_read(computations, fused)
    read = 0
    for number, arrays in enumerate(operands):
        part = parts.get(number)
        for array in arrays:
            whole = _in_hbm(array, array)
            read += (
                whole if part is None else min(whole, sum(_in_hbm(array, each) for each in part))
            )
    written = sum(
        _in_hbm(array, array if part is None else part)
        for array, part in zip(results, _parts_written(computations, fused), strict=False)
    )
    return Traffic(read, written)


def _results(instruction: Instruction, operands: int) -> tuple[Array, ...]:
    """The arrays that an instruction fills. Where it begins what goes on beside other steps, its
    type names the operands, too: of a copy behind the result, otherwise in front of it.
    """
    operation = instruction.operation
    if operation == "copy-start":
        return instruction.arrays[:1]
    if operation.endswith("-start") and operation != "all-reduce-start":
        return instruction.arrays[operands:]
    return instruction.arrays


def _in_hbm(where: Array, what: Array) -> int:
    """The bytes of an array or a part of it that move, if it lies in HBM."""
    return what.padded_bytes if where.space == _HBM else 0


def _parts_read(computations: Computations, name: str) -> dict[int, list[Array] | None]:
    """Which slices a fused computation reads of each parameter, by its number; None for all of it.
    Of what it updates in place it reads nothing.
    """
    computation = computations.by_name[name]
    users: dict[str, list[tuple[Instruction, int]]] = {}
    for instruction in computation.values():
        for position, operand in enumerate(instruction.operands):
            users.setdefault(operand, []).append((instruction, position))

    def parts_of(value: str) -> list[Array] | None:
        if computation[value].root:
            return None
        found: list[Array] = []
        for user, position in users.get(value, []):
            part: list[Array] | None = None
            if user.operation == "bitcast" or _only_renames(computations, user):
                part = parts_of(user.name)
            elif user.operation in _SLICES and position == 0:
                part = list(user.arrays)
            elif user.operation == _UPDATE and position == 0:
                part = []
            elif user.operation == "fusion":
                part = _parts_read(computations, str(user.called())).get(position)
            if part is None:
                return None
            found += part
        return found

    return {
        int(instruction.arguments): parts_of(instruction.name)
        for instruction in computation.values()
        if instruction.operation == "parameter"
    }


def _only_renames(computations: Computations, instruction: Instruction) -> bool:
    """Whether an instruction is a fusion that gives its operand another shape and nothing else."""
    if instruction.operation != "fusion":
        return False
    inside = computations.by_name[str(instruction.called())].values()
    return all(each.operation in ("parameter", "bitcast") for each in inside)


def _parts_written(computations: Computations, name: str) -> Iterator[Array | None]:
    """The part that a fused computation updates in place of each array of its result; None where it
    writes all of it.
    """
    computation = computations.by_name[name]
    root = next(each for each in computation.values() if each.root)
    results = [computation[each] for each in root.operands] if root.operation == "tuple" else [root]
    for source in results:
        while source.operation == "bitcast":
            source = computation[source.operands[0]]
        if source.operation == _UPDATE:
            yield from computation[source.operands[1]].arrays
        else:
            yield from [None] * len(source.arrays)
