"""Exceptions whose message is a single line for the user; the command line prints it as it is."""


def one_line(text: str) -> str:
    """Shows line breaks, and codes that a terminal obeys, as escapes: names that come from files
    may hold them.

    >>> print(one_line("a\\nb.jpg"))
    a\\nb.jpg
    """
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class InputError(ValueError):
    """Invalid input. The message names the file or setting, the rule and the value received. The
    command line exits with status 2. It is always one line (`one_line`).

    >>> from personlab_keras.config import load_config
    >>> load_config(None, ["decode.masks=many"])
    Traceback (most recent call last):
        ...
    personlab_keras.errors.InputError: --set: decode.masks must be true or false. Received: 'many'
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Stopped(Exception):
    """A run stopped on request after saving its state. The message says how to resume it.

    Attributes:
        interrupted: whether Ctrl-C asked for it.
    """

    def __init__(self, message: str, interrupted: bool = False) -> None:
        super().__init__(message)
        self.interrupted = interrupted
