"""Converts plain values, as YAML gives them, to trees of frozen dataclasses and back.

The code follows the declarations of the dataclasses and knows no setting by name.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any

from personlab_keras.errors import InputError

_KIND_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
_PLURALS = {int: "integers", float: "numbers", str: "strings"}


def updated(base: Any, values: Any, source: str) -> Any:
    """A copy of a tree of dataclasses with some fields replaced, every key and type checked.

    Args:
        base: an instance of a dataclass.
        values: plain values as YAML gives them, nested as the dataclasses are.
        source: named in errors: a file, or an option.

    Raises:
        InputError: a key is unknown, or a value has the wrong type.
    """
    return _updated(base, values, where="", source=source, known=_known_names(type(base)))


def plain_values(base: Any) -> dict[str, Any]:
    """The fields of a tree of dataclasses as nested dicts for YAML or JSON; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value

    return plain(dataclasses.asdict(base))


def field_descriptions(kind: Any) -> dict[str, str]:
    """The docstrings under the fields of a dataclass, each on one line; fields without one are
    missing.
    """
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            found[statement.target.id] = " ".join(str(following.value.value).split())
    return found


def _known_names(kind: type) -> list[str]:
    """Names `section` and `section.key` of all settings of a tree of two levels."""
    sections = typing.get_type_hints(kind)
    keys = [
        f"{section}.{key}"
        for section, of in sections.items()
        if dataclasses.is_dataclass(of)
        for key in typing.get_type_hints(of)
    ]
    return [*keys, *sections]


def _updated(base: Any, values: Any, where: str, source: str, known: list[str]) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(
            f"{source}: {where or 'the configuration'} must be a mapping. Received: {values!r}"
        )
    hints = typing.get_type_hints(type(base))
    changes = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise InputError(f"{source}: unknown key {name}.{_suggestion(name, known)}")
        if dataclasses.is_dataclass(hints[key]):
            changes[key] = _updated(getattr(base, key), value, name, source, known)
        else:
            changes[key] = _converted(hints[key], value, name, source)
    return dataclasses.replace(base, **changes)


def _suggestion(name: str, known: list[str]) -> str:
    # Keys without a section, or with the wrong one, are as common as misspelt ones.
    keys = {full.partition(".")[2]: full for full in known if "." in full}
    near = difflib.get_close_matches(name, known, n=1) or [
        keys[key] for key in difflib.get_close_matches(name.rpartition(".")[2], keys, n=1)
    ]
    if near:
        return f" Nearest: {near[0]}"
    return f" Sections: {', '.join(full for full in known if '.' not in full)}"


def _converted(kind: Any, value: Any, name: str, source: str) -> Any:
    """The value as `kind`: bool, int, float, str or a tuple of them (of any length if declared
    so), or one of these or None.
    """
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in options:
        return None
    wanted = next(option for option in options if option is not type(None))
    if typing.get_origin(wanted) is tuple:
        items = typing.get_args(wanted)
        if items[-1] is Ellipsis and isinstance(value, (list, tuple)):
            items = items[:1] * len(value)
        if isinstance(value, (list, tuple)) and len(value) == len(items):
            return tuple(
                _converted(item, each, name, source)
                for item, each in zip(items, value, strict=True)
            )
    elif wanted is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif wanted is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as a string because it has no point.
        try:
            return float(value)
        except ValueError:
            pass
    elif type(value) is wanted:
        return value
    rule = _described(wanted) + (" or null" if len(options) > 1 else "")
    raise InputError(f"{source}: {name} must be {rule}. Received: {value!r}")


def _described(kind: Any) -> str:
    """A type in words.

    >>> _described(tuple[float, float]), _described(tuple[str, ...])
    ('a list of 2 numbers', 'a list of strings')
    """
    if typing.get_origin(kind) is not tuple:
        return _KIND_NAMES[kind]
    items = typing.get_args(kind)
    count = "" if items[-1] is Ellipsis else f"{len(items)} "
    return f"a list of {count}{_PLURALS[items[0]]}"
