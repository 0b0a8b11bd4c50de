"""Starts replicas on Ray Serve, on this machine or on a cluster, and sends requests to them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve as ray_serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from personlab_keras.config import ServeConfig
from personlab_keras.errors import InputError
from personlab_keras.serving.app import Busy
from personlab_keras.serving.messages import Answer, RequestOptions, failure, refusal
from personlab_keras.serving.replica import Replica

_OBJECT_STORE_BYTES = 256 * 1024**2
"""Shared memory for images on their way to replicas. Images that do not fit wait on disk."""
_ATTEMPTS = 2
"""A request whose replica dies is sent to another one only once: the request may be the cause."""


@dataclass(frozen=True)
class Replicas:
    """Running replicas of a network.

    Attributes:
        name: name of their application on the cluster.
        handle: Ray Serve's handle of the deployment.
        model: the description that `Replica.describe` returns.
    """

    name: str
    handle: Any
    model: Mapping[str, Any]

    async def find(self, data: bytes, request_options: RequestOptions) -> Answer:
        """Finds the people in an image file.

        Raises:
            Busy: no replica accepts the request now.
        """
        for _ in range(_ATTEMPTS):
            try:
                return await self.handle.find.remote(data, request_options)
            except (BackPressureError, DeploymentUnavailableError) as error:
                raise Busy(str(error).splitlines()[0]) from None
            except RayActorError:
                continue
            except Exception as error:
                return failure(error)
        return refusal(500, f"the process that predicted the image died, {_ATTEMPTS} times")

    def health(self) -> dict[str, Any]:
        """Counts the replicas in each state; ready if one is running."""
        application = ray_serve.status().applications.get(self.name)
        counts = application.deployments["Replica"].replica_states if application else {}
        states = {
            str(getattr(state, "value", state)).lower(): count for state, count in counts.items()
        }
        return {"ready": states.get("running", 0) > 0, "replicas": states}


@contextlib.contextmanager
def replicas(
    model: Path, config: ServeConfig, overrides: Sequence[str], address: str | None
) -> Iterator[Replicas]:
    """Context manager that starts replicas of a model, warms them up and stops them at the end.

    Args:
        model: model directory or network file, as the replicas see it.
        config: number of replicas, threads and limits.
        overrides: settings `section.key=value` that replace those of the model.
        address: address of a Ray cluster; None to start Ray on this machine.

    Raises:
        InputError: there is no Ray cluster at the address; the model or a setting is invalid.
    """
    threads = config.threads or max(1, (os.cpu_count() or 1) // config.replicas)
    name = f"personlab-{socket.gethostname()}-{os.getpid()}"
    try:
        # Ray installs its own handler of SIGTERM, which exits the process.
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _connect(address, config.replicas * threads)
        except SystemExit:
            raise KeyboardInterrupt from None
        finally:
            signal.signal(signal.SIGTERM, handler)
        handle = _deploy(name, model, config, overrides, threads)
        described = handle.describe.remote().result()
        if "error" in described:
            raise InputError(described["error"])
        yield Replicas(name, handle, described)
    finally:
        if address and ray.is_initialized():
            ray_serve.delete(name)
        ray.shutdown()


def _shortened(record: logging.LogRecord) -> bool:
    """Lets errors of Ray pass, the first line of each: a killed replica makes it print a page."""
    lines = record.getMessage().strip().splitlines() or [""]
    record.msg, record.args, record.exc_info = lines[0][:200], (), None
    return record.levelno >= logging.ERROR


def _connect(address: str | None, cores: int) -> None:
    quiet = {"configure_logging": False, "log_to_driver": False}
    logging.getLogger("ray.serve").addFilter(_shortened)
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{address}: no Ray cluster there: {str(error).splitlines()[0]}"
            ) from None
    else:
        # Ray only counts CPUs. It is given as many as the replicas ask for, even if the machine has
        # fewer, so that none waits forever.
        try:
            ray.init(
                address="local",
                num_cpus=max(cores, os.cpu_count() or 1),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        except Exception as error:  # Ray raises nothing narrower when its processes do not start
            raise InputError(f"Ray does not start here: {str(error).splitlines()[0]}") from None


def _deploy(
    name: str, model: Path, config: ServeConfig, overrides: Sequence[str], threads: int
) -> Any:
    # The HTTP application bounds the queue. Replicas accept every request, so that a batch never
    # waits for Ray's polling router.
    replica: Any = Replica  # the decorator's type is not declared
    deployment = replica.options(
        num_replicas=config.replicas,
        max_ongoing_requests=config.max_queued,
        max_queued_requests=config.max_queued,
        ray_actor_options={"num_cpus": threads, "num_gpus": config.gpus},
        health_check_timeout_s=60,
    )
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    ray_serve.start(proxy_location="Disabled", logging_config=quiet)
    application = deployment.bind(str(model), list(overrides), config, threads)
    return ray_serve.run(application, name=name, route_prefix=None, logging_config=quiet)
