"""Every field of every section, by reflection, with values that no field of its kind can have: each
is refused with one line that names the field, however the value comes in.
"""

import dataclasses
import math
import typing

import pytest
import yaml

from personlab_keras.cli import main
from personlab_keras.config import Config, config_from_dict, load_config
from personlab_keras.config_values import Choices, Count, Range, Text, checked
from personlab_keras.errors import InputError

HUGE = 10**400
OTHER_TYPES = ([], {}, {"a": 1}, [[[1]]])
TEXTS = ("", "a\0b", "a\nb", "x" * 5000)


def declarations():
    """(section, field, whether it may be None, its type, its rule) of every setting."""
    for section in dataclasses.fields(Config):
        kinds = typing.get_type_hints(type(getattr(Config(), section.name)), include_extras=True)
        for name, kind in kinds.items():
            options = typing.get_args(kind) if type(None) in typing.get_args(kind) else (kind,)
            yield section.name, name, len(options) > 1, *plain(options[0])


def plain(kind):
    if typing.get_origin(kind) is typing.Annotated:
        return typing.get_args(kind)
    return kind, None


def hostile(kind, rule):
    """Values below, above, NaN, infinite, absurdly large and of another type."""
    if kind is bool:
        return [0, 1, "maybe", 0.0, math.nan, HUGE, *OTHER_TYPES]
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        length = 1 if items[-1] is Ellipsis else len(items)
        spoilt = [[value] * length for value in hostile(*plain(items[0]))]
        wrong_length = [list(range(1000))]
        if not (isinstance(rule, Count) and rule.least == 0):
            wrong_length.append([])
        return [*spoilt, *wrong_length, True, "maybe", math.nan, HUGE, {"a": 1}]
    if isinstance(rule, Choices):
        words = ["banana", "", "x" * 5000] if kind is str else [-1, 3, 2**31, 1.5, HUGE]
        return [*words, math.nan, math.inf, True, *OTHER_TYPES]
    if isinstance(rule, Text):
        return [*TEXTS, 3, 1.5, math.nan, HUGE, True, *OTHER_TYPES]
    assert isinstance(rule, Range), (kind, rule)
    step = 1 if kind is int else 1e-3
    numbers = [rule.low - step, rule.high + step, -1e300, 1e300, math.nan, math.inf, -math.inf]
    fractions = [rule.low + 0.5] if kind is int else []
    return [*numbers, *fractions, HUGE, -HUGE, "many", "", True, *OTHER_TYPES]


def cases():
    for section, name, optional, kind, rule in declarations():
        for value in hostile(kind, rule):
            yield section, name, value
        if not optional:
            yield section, name, None


CASES = list(cases())

COMMANDS = (
    ["config"],
    ["demo", "--out", "no/such/place"],
    ["prepare", "--annotations", "a.json", "--images", "images", "--out", "records"],
    ["convert", "a.json", "--out", "b"],
    ["inspect", "records"],
    ["train", "--records", "records", "--workdir", "run"],
    ["export", "run", "--out", "model"],
    ["import-weights", "nothing", "--out", "model"],
    ["predict", "a.jpg", "--model", "model", "--out", "people"],
    ["evaluate", "--model", "model", "--annotations", "a.json", "--out", "metrics"],
    ["serve", "--model", "model"],
)


def test_the_enumeration_covers_every_field_and_kind_of_value():
    assert len({(section, name) for section, name, _ in CASES}) == sum(
        len(dataclasses.fields(getattr(Config(), section.name)))
        for section in dataclasses.fields(Config)
    )
    assert len(CASES) > 1400


def test_python_yaml_and_plain_values_refuse_every_case(tmp_path):
    file = tmp_path / "settings.yaml"
    accepted = []
    for section, name, value in CASES:
        document = {section: {name: value}}
        file.write_text(yaml.safe_dump(document))
        for way, source, load in (
            (
                "Python",
                "",
                lambda: dataclasses.replace(getattr(Config(), section), **{name: value}),  # noqa: B023
            ),
            ("YAML", "settings.yaml: ", lambda: load_config(file)),
            (
                "personlab.json",
                "personlab.json: ",
                lambda: config_from_dict(document, "personlab.json"),  # noqa: B023
            ),
        ):
            try:
                load()
            except InputError as error:
                line = str(error)
                assert f"{source}{section}.{name} " in line or "not valid YAML" in line
                assert "\n" not in line
                assert len(line) < 1000
            else:
                accepted.append((way, section, name, value))
    assert not accepted


def test_every_command_refuses_every_case(capsys):
    for number, (section, name, value) in enumerate(CASES):
        # Each case meets one command; each command meets every kind of value.
        command = COMMANDS[number % len(COMMANDS)]
        text = yaml.safe_dump(value, default_flow_style=True, width=10**9)
        text = text.removesuffix("\n").removesuffix("\n...")
        assert main([*command, "--set", f"{section}.{name}={text}"]) == 2, (command, text[:80])
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith(f"personlab {command[0]}: --set")
        assert f"{section}.{name}" in output.err
        assert output.err.count("\n") == 1


def test_the_nearest_value_that_an_error_names_is_accepted():
    named = 0
    for section, name, value in CASES:
        base = getattr(Config(), section)
        with pytest.raises(InputError) as caught:
            dataclasses.replace(base, **{name: value})
        _, found, nearest = str(caught.value).partition(". Nearest: ")
        if found:
            named += 1
            kind = typing.get_type_hints(type(base), include_extras=True)[name]
            assert checked(kind, yaml.safe_load(nearest), name) is not None
    assert named > 300


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {steps: 3, steps: 4}", "key 'steps' twice (line 1, column 19)"),
        ("train: {}\ntrain: {}", "key 'train' twice (line 2, column 1)"),
        (
            "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)),
            "aliases that stand for more than 1000000 values",
        ),
        ("train: &a {steps: *a}", "settings.yaml: train.steps must be an integer"),
        ("train: " + "[" * 100_000, "not valid YAML"),
        ("train:\n  steps: " + "9" * 100_000, "not valid YAML"),
        ("? [a]\n: 1", "not valid YAML"),
        ("1: 2", "unknown key 1"),
        ("train: {1: 2}", "unknown key train.1"),
    ],
)
def test_files_that_cost_or_hide(tmp_path, text, words):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(file)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
