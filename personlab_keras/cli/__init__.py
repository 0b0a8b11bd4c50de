"""The command line, `personlab COMMAND`: `parser` reads it, `commands` carries it out."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` takes a moment in which Ctrl-C would be a traceback
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_WITHOUT_TENSORFLOW = (
    "benchmark",
    "config",
    "convert",
    "evaluate",
    "import-weights",
    "inspect",
    "predict",
    "prepare",
    "push",
    "serve",
)
"""Commands that do not import TensorFlow before they know that they need it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    >>> main(["config", "--set", "train.steps=many"])
    2

    Args:
        arguments: those of the command line; None for `sys.argv`.

    Returns:
        The exit status: 0 for success, or if training was asked to stop and has saved its state; 2
        for a wrong command line or bad input, if a file cannot be read or written, or if some files
        failed; 130 if interrupted, 143 if by SIGTERM; 141 if the reader of a pipe went away.
    """
    name = "personlab"
    try:
        # Imported here, so that Ctrl-C in the first second ends in one line, too.
        from personlab_keras.io.interrupts import end_on_interrupt

        with end_on_interrupt(name):
            from personlab_keras.cli.parser import build_parser

        parser = build_parser()
        options = parser.parse_args(arguments)
        if options.command is None:
            parser.print_help(sys.stderr)
            return 2
        name = f"personlab {options.command}"
        with end_on_interrupt(name):
            return _run(options, name)
    except KeyboardInterrupt as interrupt:
        from personlab_keras.io.interrupts import interrupted_status

        reason = interrupt.args[0] if interrupt.args else "interrupted"
        print(f"{name}: {reason}", file=sys.stderr)
        return interrupted_status()


def _run(options: argparse.Namespace, name: str) -> int:
    from pathlib import Path

    from personlab_keras.cli.console import waiting
    from personlab_keras.cli.settings import command_config
    from personlab_keras.errors import InputError, Stopped
    from personlab_keras.io.failures import failure
    from personlab_keras.io.files import check_local
    from personlab_keras.io.interrupts import interrupted
    from personlab_keras.io.processes import import_tensorflow_quietly

    try:
        _check_backend()
        for value in vars(options).values():
            if isinstance(value, Path):
                check_local(value)
        config = command_config(options.command, options.config, options.set)
        if _needs_tensorflow(options):
            with waiting("loading TensorFlow"):
                import_tensorflow_quietly()
        status: int = options.run(options, config)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # As behind `| head`. What is still buffered would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Stopped as stopped:
        print(f"{name}: {stopped}")
        return 130 if stopped.interrupted else 0
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        # The one place for what the file system refuses, whoever met it.
        line = failure(error, getattr(options, "out", None) or getattr(options, "workdir", None))
        if interrupted():  # on its way through a library, a signal became this error
            raise KeyboardInterrupt from None
        if line is None:
            raise
        print(f"{name}: {line}", file=sys.stderr)
        return 2


def _check_backend() -> None:
    """Keras itself would end in a traceback where a backend is not installed. TensorFlow is looked
    for by those who need it: people are found in photos without it, too."""
    from importlib.util import find_spec

    from personlab_keras.errors import InputError
    from personlab_keras.keras_objects import BACKENDS

    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend not in BACKENDS:
        raise InputError(f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}. Received: {backend}")
    if backend != "tensorflow" and find_spec(backend) is None:
        raise InputError(
            f"KERAS_BACKEND={backend}: needs the package {backend}, which is not installed: "
            f"pip install 'personlab-keras[{backend}]'"
        )


def _needs_tensorflow(options: argparse.Namespace) -> bool:
    later = any(getattr(options, name, None) for name in ("list", "compile_for"))
    return options.command not in _WITHOUT_TENSORFLOW and not later
