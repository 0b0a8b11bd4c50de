"""Lines and progress bars on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from personlab_keras.errors import one_line


def say(line: str) -> None:
    """Prints a line at once, above a progress bar if there is one. Names in it are no markup."""
    _console().print(one_line(line), markup=False, highlight=False, soft_wrap=True)


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(2, "image"), counted(0, "person", "people")
    ('1 image', '2 images', '0 people')
    """
    return f"{number} {noun if number == 1 else nouns or f'{noun}s'}"


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Context manager that shows on a terminal that something without steps takes its time."""
    with _console().status(text):
        yield


@contextmanager
def progress_bars() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Yields a function that starts a bar: its label -> a function (done, total) that advances it.

    Without a terminal there are no bars, but a line for every tenth of the total.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = _console()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def start(label: str) -> Callable[[int, int], None]:
            task = bars.add_task(label, total=None)
            tenths = 0

            def advance(done: int, total: int) -> None:
                nonlocal tenths
                bars.update(task, completed=done, total=total)
                if console.is_terminal or not total:
                    return
                if done == total or done * 10 // total > tenths:
                    tenths = done * 10 // total
                    say(f"{label}: {done} of {total}")

            return advance

        yield start


def _console() -> Any:
    from rich import get_console

    return get_console()
