"""Settings as frozen dataclasses: every value is checked and converted when a section is
constructed, by the rule in the declaration of its field, and plain values, as YAML gives them,
become trees of such sections and back.

A field is a `bool`, an `Annotated` int, float or str with one of the rules below, a tuple of these,
or one of them or None. The code follows the declarations and knows no setting by name.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import reprlib
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from personlab_keras.errors import InputError


@dataclass(frozen=True)
class Range:
    """Rule: a finite number of at least `low` and at most `high`."""

    low: float
    high: float


@dataclass(frozen=True)
class Choices:
    """Rule: one of some values of the field's type."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Text:
    """Rule: one line of text, without control characters, of 1 to `longest` characters."""

    longest: int = 4096


@dataclass(frozen=True)
class Count:
    """Rule: a list of `least` to `most` values."""

    least: int
    most: int


class Section:
    """Base class of frozen dataclasses of settings. `DataConfig` is the section `data`.

    Raises:
        InputError: a value breaks the rule of its field. Lists become tuples, and integers become
            floats where the field is one.
    """

    def __post_init__(self) -> None:
        section = type(self).__name__.removesuffix("Config").lower()
        for name, kind in _kinds(cast(Any, type(self))).items():
            value = checked(kind, getattr(self, name), f"{section}.{name}")
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        # Only what differs from the defaults: sections are defaults in many signatures.
        settings = dataclasses.fields(cast(Any, type(self)))
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in settings
            if getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


def checked(kind: Any, value: Any, name: str) -> Any:
    """The value, converted to the type that a field declares.

    >>> checked(typing.Annotated[float, Range(0, 1)], 1, "data.flip")
    1.0

    Raises:
        InputError: it breaks the rule, which the message gives, with the nearest valid value if
            there is one.
    """
    try:
        return _converted(kind, value)
    except _Broken as broken:
        nearest = "" if broken.nearest is None else f". Nearest: {shown(broken.nearest)}"
    raise InputError(f"{name} must be {described(kind)}. Received: {shown(value)}{nearest}")


def described(kind: Any) -> str:
    """The rule of a field in words.

    >>> described(tuple[typing.Annotated[float, Range(0, 1)], ...] | None)
    'a list of values, each a number from 0 to 1, or null'
    """
    optional, kind, rule = _declared(kind)
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        count = "" if items[-1] is Ellipsis else f"{len(items)} "
        if isinstance(rule, Count):
            count = f"{rule.least} to {rule.most} "
        text = f"a list of {count}values, each {described(items[0])}"
        return f"{text}, or null" if optional else text
    if isinstance(rule, Range):
        noun = "an integer" if kind is int else "a number"
        text = f"{noun} from {_number(rule.low)} to {_number(rule.high)}"
    elif isinstance(rule, Choices):
        text = f"one of {', '.join(map(str, rule.values))}"
    elif kind is str:
        text = "a line of text"
    else:
        text = "true or false"
    return f"{text} or null" if optional else text


def shown(value: Any, longest: int = 120) -> str:
    """A value in one line of an error message, shortened, however large or deep it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = longest
    try:
        text = short.repr(value)
    except ValueError:  # an integer of more digits than Python converts
        text = f"an integer of {value.bit_length()} bits"
    if isinstance(value, tuple):
        text = shown(list(value))
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def updated(base: Any, values: Any, source: str) -> Any:
    """A copy of a tree of sections with some fields replaced.

    Args:
        base: an instance of a dataclass of sections.
        values: plain values as YAML gives them, nested as the dataclasses are.
        source: named in errors: a file, or an option.

    Raises:
        InputError: a key is unknown, or a value breaks the rule of its field or does not go with
            another.
    """
    try:
        return _updated(base, values, where="", known=_known_names(cast(Any, type(base))))
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def plain_values(base: Any) -> dict[str, Any]:
    """The fields of a tree of dataclasses as nested dicts for YAML or JSON; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value

    return plain(dataclasses.asdict(base))


def field_descriptions(kind: Any) -> dict[str, str]:
    """The docstring under each field of a section, on one line, followed by the rule."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    kinds = _kinds(kind)
    found = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            name = statement.target.id
            text = " ".join(str(following.value.value).split())
            found[name] = f"{text} Allowed: {described(kinds[name])}."
    return found


class _Broken(Exception):
    """A value breaks its rule; with the nearest value that does not, or None."""

    def __init__(self, nearest: Any = None) -> None:
        super().__init__()
        self.nearest = nearest


@functools.cache
def _kinds(section: type) -> dict[str, Any]:
    return typing.get_type_hints(section, include_extras=True)


def _declared(kind: Any) -> tuple[bool, Any, Any]:
    """Whether a field may be None, its type, and its rule (None for a field without one)."""
    options = typing.get_args(kind) if _is_union(kind) else (kind,)
    wanted = next(option for option in options if option is not type(None))
    rule = None
    if typing.get_origin(wanted) is typing.Annotated:
        wanted, rule = typing.get_args(wanted)
    return len(options) > 1, wanted, rule


def _is_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def _converted(kind: Any, value: Any) -> Any:
    optional, kind, rule = _declared(kind)
    if value is None and optional:
        return None
    if typing.get_origin(kind) is tuple:
        return _items(typing.get_args(kind), rule, value)
    if kind is bool:
        if not isinstance(value, bool):
            raise _Broken
        return value
    value = _text(value) if kind is str else _finite(kind, value)
    if isinstance(rule, Range) and not rule.low <= value <= rule.high:
        raise _Broken(kind(min(max(value, rule.low), rule.high)))
    if isinstance(rule, Choices) and value not in rule.values:
        raise _Broken(_nearest_choice(rule.values, value))
    if isinstance(rule, Text) and len(value) > rule.longest:
        raise _Broken
    return kind(value)


def _items(kinds: tuple[Any, ...], rule: Any, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _Broken
    if kinds[-1] is Ellipsis:
        if isinstance(rule, Count) and not rule.least <= len(value) <= rule.most:
            raise _Broken
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise _Broken
    items, nearest, whole = [], [], True
    for kind, item in zip(kinds, value, strict=True):
        try:
            items.append(_converted(kind, item))
            nearest.append(items[-1])
        except _Broken as broken:
            whole = False
            nearest.append(broken.nearest)
    if not whole:
        raise _Broken(None if None in nearest else nearest)
    return tuple(items)


def _finite(kind: type, value: Any) -> Any:
    if isinstance(value, str) and kind is float:
        # YAML 1.1 reads 1e-3 as a string because it has no point.
        try:
            value = float(value)
        except ValueError:
            raise _Broken from None
    wanted = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise _Broken
    if isinstance(value, numbers.Integral):
        return int(value)  # compared as an integer: a large one has no float
    if not math.isfinite(value):
        raise _Broken
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _Broken
    return value


def _nearest_choice(choices: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, str):
        return min(choices, key=lambda choice: abs(choice - value))
    return next(iter(difflib.get_close_matches(value, choices, n=1)), None)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


@functools.cache
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


def _updated(base: Any, values: Any, where: str, known: list[str]) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(
            f"{where or 'the configuration'} must be a mapping. Received: {shown(values)}"
        )
    declared = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    changes = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in declared:
            raise InputError(f"unknown key {shown(name)[1:-1]}.{_suggestion(name, known)}")
        nested = dataclasses.is_dataclass(declared[key])
        changes[key] = _updated(declared[key], value, name, known) if nested else value
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
