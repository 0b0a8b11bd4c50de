"""Published rates of accelerators, and the names of groups of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from personlab_keras.errors import InputError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """An accelerator, as its maker publishes it.

    Attributes:
        name: as in `--compile-for`.
        flops: operations per second in bfloat16, dense.
        bandwidth: bytes per second between the chip and its memory.
        memory: bytes.
        kind: what JAX calls the device; a GPU's begins with it.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float
    kind: str


TPUS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 1228e9, 32 * GIB, "TPU v4"),
        Chip("v5e", 197e12, 819e9, 16 * GIB, "TPU v5 lite"),
        Chip("v5p", 459e12, 2765e9, 95 * GIB, "TPU v5"),
        Chip("v6e", 918e12, 1640e9, 32 * GIB, "TPU v6 lite"),
    )
}
"""Google's figures (cloud.google.com/tpu/docs, one page per generation)."""

GPUS = (
    Chip("h200", 989e12, 4800e9, 141e9, "NVIDIA H200"),
    Chip("h100", 989e12, 3350e9, 80e9, "NVIDIA H100 80GB HBM3"),
    Chip("a100", 312e12, 2039e9, 80e9, "NVIDIA A100-SXM4-80GB"),
)
"""NVIDIA's figures, from the data sheets of the SXM modules."""


@dataclass(frozen=True)
class Target:
    """What to compile for.

    Attributes:
        chip: of a TPU; None for the GPU of this machine.
        topology: of a slice, as libtpu names it, such as "4x4".
        slices: that train together.
    """

    chip: Chip | None
    topology: str = ""
    slices: int = 1

    def __str__(self) -> str:
        if self.chip is None:
            return "gpu"
        return f"{self.chip.name}:{self.topology}" + (f"*{self.slices}" if self.slices > 1 else "")


def parse_target(text: str) -> Target:
    """The target that `--compile-for` names: gpu, or GENERATION:TOPOLOGY[*SLICES].

    >>> target = parse_target("v5e:4x4*2")
    >>> target.chip.name, target.topology, target.slices, str(target)
    ('v5e', '4x4', 2, 'v5e:4x4*2')

    Raises:
        InputError: it names neither.
    """
    if text == "gpu":
        return Target(None)
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})(?:\*([1-9]\d*))?", text)
    if match is None or match[1] not in TPUS:
        raise InputError(
            f"--compile-for must be gpu or GENERATION:TOPOLOGY[*SLICES], such as v5e:4x4, with a "
            f"generation of {', '.join(TPUS)}. Received: {text}"
        )
    return Target(TPUS[match[1]], match[2], int(match[3] or 1))


def gpu_named(kind: str) -> Chip | None:
    """The published rates of a GPU by JAX' name for it; None where they are not in the table.

    >>> gpu_named("NVIDIA H200").name
    'h200'
    """
    return next((chip for chip in GPUS if kind.startswith(chip.kind)), None)
