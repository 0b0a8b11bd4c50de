"""What compiling a training step tells: the figures and their table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from personlab_keras.compilation.chips import GIB, Chip
from personlab_keras.compilation.program import Program


@dataclass(frozen=True)
class Report:
    """A compiled training step.

    Attributes:
        target: that it was compiled for, as in `--compile-for`.
        devices: that share a batch.
        batch_size: views of all devices together.
        parameters: numbers in the network.
        memory: bytes on a device, by kind. "arguments" (state and batch), "temporaries", "program"
            and "results" that do not take over the memory of arguments.
        donated: bytes of the arguments whose memory the new state takes over.
        flops: operations of a device in a step, as XLA counts them.
        counted_bytes: that a device moves in a step, as XLA counts them: between any of its
            memories, with operands and results that lie beside the arithmetic units.
        program: what its text says.
        chip: rates and memory of a device; None where they are not known.
        seconds: that compiling took.
    """

    target: str
    devices: int
    batch_size: int
    parameters: int
    memory: Mapping[str, int]
    donated: int
    flops: float
    counted_bytes: float
    program: Program
    chip: Chip | None
    seconds: float

    @property
    def needed(self) -> int:
        """Bytes of memory that a device needs."""
        return sum(self.memory.values())

    @property
    def traffic(self) -> int:
        """Bytes that a device reads from its main memory and writes to it in a step."""
        return self.program.memory.read + self.program.memory.written

    @property
    def views(self) -> float:
        """Views of a device in a step."""
        return self.batch_size / self.devices

    @property
    def floors(self) -> tuple[float, float] | None:
        """Seconds of a step that the operations take at the published rate of the chip, and that
        the bytes take.
        """
        if self.chip is None:
            return None
        return self.flops / self.chip.flops, self.traffic / self.chip.bandwidth

    @property
    def views_per_second(self) -> float | None:
        """Of all devices together, at the larger floor."""
        return None if self.floors is None else self.batch_size / max(self.floors)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **asdict(self),
            "needed": self.needed,
            "flops_per_view": self.flops / self.views,
            "traffic_per_view": self.traffic / self.views,
            "counted_bytes_per_view": self.counted_bytes / self.views,
            "floor_seconds": self.floors
            and dict(zip(("arithmetic", "traffic"), self.floors, strict=True)),
            "views_per_second": self.views_per_second,
        }

    def table(self) -> str:
        """The figures for people, two columns."""
        program, chip = self.program, self.chip
        memory = ", ".join(f"{kind} {size / GIB:.3g}" for kind, size in self.memory.items())
        share = program.padding_bytes / (program.result_bytes + program.padding_bytes or 1)
        rows = [
            ("compiled for", f"{self.target}, {self.devices} devices, in {self.seconds:.0f} s"),
            ("batch", f"{self.batch_size} views, {self.views:g} on a device"),
            ("parameters", f"{self.parameters / 1e6:.2f} million"),
            (
                "memory on a device",
                f"{self.needed / GIB:.3g} GiB"
                + (f" of {chip.memory / GIB:.0f}" if chip is not None else "")
                + f": {memory}",
            ),
            ("state donated", f"{self.donated / GIB:.3g} GiB"),
            ("operations a view", f"{self.flops / self.views / 1e9:.3g} GFLOP"),
            (
                "bytes of memory a view",
                f"{self.traffic / self.views / 1e9:.3g} GB read or written; XLA counts "
                f"{self.counted_bytes / self.views / 1e9:.3g} GB in all memories of a device",
            ),
        ]
        if chip is not None and self.floors is not None:
            arithmetic, traffic = (1e3 * floor for floor in self.floors)
            rows += [
                (
                    "floor of a step, arithmetic",
                    f"{arithmetic:.3g} ms at {chip.flops / 1e12:.0f} TFLOP/s",
                ),
                (
                    "floor of a step, traffic",
                    f"{traffic:.3g} ms at {chip.bandwidth / 1e9:.0f} GB/s",
                ),
                (
                    "at the larger floor",
                    f"{self.views_per_second:.0f} views/s on all devices",
                ),
            ]
        rows += [
            (
                "collectives",
                ", ".join(
                    f"{kind} of {each.arrays} arrays, {each.bytes / 1e6:.1f} MB"
                    for kind, each in program.collectives.items()
                )
                or "none",
            ),
            ("gathers, scatters", f"{program.gathers}, {program.scatters}"),
            ("tiles wasted by padding", f"{share:.0%} of the bytes of results"),
        ]
        if program.estimated_cycles:
            rows.append(
                (
                    "compiler's estimate",
                    f"{program.estimated_cycles / 1e6:.1f} million cycles a step, gathers, "
                    "scatters and exchanges not counted",
                )
            )
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {text}" for name, text in rows)
