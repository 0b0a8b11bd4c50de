"""The devices to compile for: those of a TPU slice by libtpu's description, or this machine's GPU.

Keras and JAX must not be imported before `prepare_environment` was called.
"""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass, replace
from typing import Any

from personlab_keras.compilation.chips import Chip, Target, gpu_named
from personlab_keras.errors import InputError
from personlab_keras.io.processes import silent_standard_error


@dataclass(frozen=True)
class Devices:
    """Devices to compile for.

    Attributes:
        all: JAX' descriptions of them, in the order of the batch.
        chip: rates and memory of one device: of half a chip where JAX sees two on each, as on v4.
            None for a GPU that is not in the table.
        chips: how many chips the devices lie on.
    """

    all: tuple[Any, ...]
    chip: Chip | None
    chips: int


def prepare_environment(target: Target) -> None:
    """Sets what Keras, JAX and libtpu read when they are imported.

    Raises:
        InputError: libtpu is not installed.
    """
    os.environ["KERAS_BACKEND"] = "jax"
    if target.chip is None:
        return
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"--compile-for {target} needs the compiler for TPUs, which the package libtpu "
            "contains: pip install 'personlab-keras[tpu]'"
        )
    os.environ |= {
        # The machine has no TPU: neither JAX nor libtpu shall look for one.
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "",
        # Several compilations may run at a time.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def devices_of(target: Target) -> Devices:
    """The devices that a target names.

    Raises:
        InputError: no such slice; this machine has no GPU.
    """
    import jax

    if target.chip is None:
        try:
            with silent_standard_error():
                found = tuple(jax.devices("gpu"))
        except RuntimeError:
            raise InputError(
                "--compile-for gpu needs a GPU that JAX can use (pip install 'jax[cuda12]'). "
                "Received: a machine without"
            ) from None
        return Devices(found, gpu_named(found[0].device_kind), len(found))
    from jax.experimental import topologies

    sides = [int(side) for side in target.topology.split("x")]
    options: dict[str, Any] = {"num_slices": target.slices} if target.slices > 1 else {}
    if min(sides[:2]) < 2:  # a host with fewer than the four chips that are assumed otherwise
        options["chips_per_host_bounds"] = [*(min(2, side) for side in sides), 1][:3]
    try:
        with silent_standard_error():  # libtpu complains about the TPU that is not there
            found = tuple(
                topologies.get_topology_desc(
                    topology_name=f"{target.chip.name}:{target.topology}", platform="tpu", **options
                ).devices
            )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"--compile-for {target}: there is no such slice: {str(error).splitlines()[0]}"
        ) from None
    chips = math.prod(sides) * target.slices
    share = chips / len(found)
    chip = target.chip
    device = replace(
        chip,
        flops=chip.flops * share,
        bandwidth=chip.bandwidth * share,
        memory=chip.memory * share,
    )
    return Devices(found, device, chips)
