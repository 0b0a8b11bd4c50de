"""`personlab train --compile-for`: compiles the training step and reports what it needs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from personlab_keras.compilation.chips import GIB, Target
from personlab_keras.compilation.devices import Devices, devices_of
from personlab_keras.compilation.program import read_program
from personlab_keras.compilation.report import Report
from personlab_keras.compilation.step import lower_step
from personlab_keras.config import Config
from personlab_keras.data.records import Meta
from personlab_keras.errors import InputError
from personlab_keras.method.skeleton import load_skeleton
from personlab_keras.training.train import resolve
from personlab_keras.training.training_model import TrainingModel, build_training_model


class TooLarge(InputError):
    """A step that does not fit into the memory of a device.

    Args:
        text: the error's.
        needed: bytes.
        available: bytes.
    """

    def __init__(self, text: str, needed: float, available: float) -> None:
        super().__init__(text)
        self.needed, self.available = needed, available


def meta_of(config: Config) -> Meta:
    """That of records made with these settings, of which there need be none."""
    return Meta(
        view_size=config.data.view_size,
        stride=config.targets.stride,
        radius=config.targets.radius,
        skeleton=load_skeleton(config.data.skeleton),
        records=0,
        shards=(),
        max_persons=1,
        counts={},
        skipped={},
        source={},
    )


def compile_for(target: Target, config: Config, meta: Meta) -> Report:
    """Compiles the step of `fit` for a target, with weights of any value.

    Raises:
        InputError: no such slice or no GPU; a batch that the devices cannot share; a network that
            cannot be built.
        TooLarge: it does not fit into the memory of a device.
    """
    devices = devices_of(target)
    config = resolve(config, meta)
    if config.train.batch_size % len(devices.all):
        raise InputError(
            f"train.batch_size must be a multiple of the {len(devices.all)} devices of {target}. "
            f"Received: {config.train.batch_size}"
        )
    training_model = build_training_model(
        config, meta.skeleton, pretrained=False, on_tpu=target.chip is not None
    )
    return _compile(training_model, meta, config.train.batch_size, devices, target)


def largest_batch(
    target: Target, config: Config, meta: Meta, say: Callable[[str], None] = lambda line: None
) -> Report:
    """The step of the largest batch that fits, of the batches that the devices share equally.

    Args:
        say: is told about every batch that was tried.

    Raises:
        InputError: as `compile_for`; not even one view per device fits.
    """
    devices = devices_of(target)
    config = resolve(config, meta)
    training_model = build_training_model(
        config, meta.skeleton, pretrained=False, on_tpu=target.chip is not None
    )
    fitting: Report | None = None

    def needed(views: int) -> float | None:
        nonlocal fitting
        batch = views * len(devices.all)
        try:
            report = _compile(training_model, meta, batch, devices, target)
        except TooLarge as error:
            say(str(error))
            return None
        if fitting is None or batch > fitting.batch_size:
            fitting = report
        say(f"{target}: {batch} views fit, {report.needed / GIB:.2f} GiB on a device")
        return report.needed

    limit = devices.chip.memory if devices.chip is not None else float("inf")
    if limit == float("inf"):
        raise InputError("--largest-batch needs a chip whose memory is known")
    search(needed, limit, start=max(1, config.train.batch_size // len(devices.all)))
    if fitting is None:
        raise InputError(f"{target}: not even one view per device fits")
    return fitting


def search(needed: Callable[[int], float | None], limit: float, start: int) -> int:
    """The largest number for which something fits; 0 where not even 1 does.

    Trying takes minutes. Memory grows nearly in proportion, so the next number is the one at which
    the line through what was measured meets the limit.

    >>> search(lambda n: 3.0 + n if n <= 13 else None, 16.0, start=4)
    13

    Args:
        needed: number -> what it needs; None if that is too much.
        limit: of what may be needed.
        start: number to try first.
    """
    measured: dict[int, float] = {}
    fits, fails = 0, None
    number = start
    while fails is None or fails - fits > 1:
        found = needed(number)
        if found is None:
            fails = number
        else:
            fits, measured[number] = number, found
        if len(measured) > 1:
            (low, at_low), (high, at_high) = sorted(measured.items())[-2:]
            slope = (at_high - at_low) / (high - low)
            number = high + int((limit - at_high) / slope) if slope > 0 else 2 * high
        else:
            number = 2 * fits if fails is None else (fits + fails) // 2
        number = max(fits + 1, number if fails is None else min(number, fails - 1))
    return fits


def _compile(
    training_model: TrainingModel, meta: Meta, batch_size: int, devices: Devices, target: Target
) -> Report:
    began = time.perf_counter()
    lowered = lower_step(training_model, meta, batch_size, devices.all)
    try:
        compiled = lowered.compile()
    except RuntimeError as error:
        raise _too_large(error, target, batch_size) from None
    seconds = time.perf_counter() - began
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    report = Report(
        target=str(target),
        devices=len(devices.all),
        batch_size=batch_size,
        parameters=training_model.network.count_params(),
        memory={
            "arguments": memory.argument_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "program": memory.generated_code_size_in_bytes,
            "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        },
        donated=memory.alias_size_in_bytes,
        flops=cost["flops"],
        counted_bytes=cost["bytes accessed"],
        program=read_program(compiled.as_text()),
        chip=devices.chip,
        seconds=seconds,
    )
    if devices.chip is not None and report.needed > devices.chip.memory:
        raise TooLarge(*_sizes(target, batch_size, report.needed, devices.chip.memory))
    return report


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _too_large(error: RuntimeError, target: Target, batch_size: int) -> Exception:
    """The compiler's error in one line if memory was too small; else the error itself."""
    match = re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", str(error))
    if match is None:
        return error
    needed, available = (float(match[at]) * _UNITS[match[at + 1]] for at in (1, 3))
    return TooLarge(*_sizes(target, batch_size, needed, available))


def _sizes(
    target: Target, batch_size: int, needed: float, available: float
) -> tuple[str, float, float]:
    text = (
        f"{target}: a step of {batch_size} views needs {needed / GIB:.2f} GiB on a device, which "
        f"has {available / GIB:.2f}. Set a smaller train.batch_size, or find the largest with "
        "--largest-batch"
    )
    return text, needed, available
