"""A room imports from lower rows only; docs/architecture.md prints the same table."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TENSORFLOW, KERAS = "tensorflow", "keras"

# From the ground up: rooms (a folder stands for all of its modules) that import lower rows only.
ROWS = (
    ("errors", "keras_objects"),
    ("io", "config_values"),
    ("method",),
    ("config",),
    ("annotations",),
    (
        "data",
        "model",
        "decoder",
        "decoder_graph",
        "drawing",
        "evaluation",
        "synthetic",
        "beam_options",
    ),
    ("model_directory", "results", "tracking"),
    ("training",),
    ("inference", "compilation"),
    ("export", "serving"),
    ("demo", "hub"),
    ("cli",),
)

# Rooms that import TensorFlow or Keras directly. All others import neither.
HEAVY = {
    "io": {TENSORFLOW, KERAS},  # processes: importing them quietly
    "data": {TENSORFLOW},
    "model": {KERAS},
    "decoder_graph": {TENSORFLOW},
    "model_directory": {KERAS},
    "training": {TENSORFLOW, KERAS},
    "inference": {TENSORFLOW, KERAS},
    "export": {TENSORFLOW, KERAS},
}

MODEL_SIDE = {"model"}
DATA_SIDE = {"data"}


def row_of(room: str) -> int:
    return next(i for i, row in enumerate(ROWS) if room in row)


def modules() -> list[tuple[str, Path]]:
    package = ROOT / "personlab_keras"
    found = (
        (path.relative_to(package).with_suffix("").parts[0], path) for path in package.rglob("*.py")
    )
    return sorted((room, path) for room, path in found if room != "__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports name the whole path"
            found.add(node.module)
            if node.module == "personlab_keras":
                found |= {f"personlab_keras.{alias.name}" for alias in node.names}
    return found


def rooms(names: set[str]) -> set[str]:
    """The rooms of this package among imported modules."""
    known = {room for row in ROWS for room in row}
    return {name.split(".")[1] for name in names if name.startswith("personlab_keras.")} & known


def test_every_room_has_a_row():
    assert sorted(room for row in ROWS for room in row) == sorted({room for room, _ in modules()})


def test_the_documents_print_this_table():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [
        tuple(re.findall(r"`(\w+)`", line))
        for line in text.splitlines()
        if re.match(r"\| \d+ \|", line)
    ]
    assert rows == list(ROWS)


def test_no_room_of_one_file():
    for folder in (ROOT / "personlab_keras").rglob("*/"):
        own = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        if (folder / "__init__.py").is_file() and folder.name != "personlab_keras":
            assert len(own) + len(list(folder.glob("*/__init__.py"))) > 1, folder.name


@pytest.mark.parametrize(
    ("room", "path"), modules(), ids=lambda value: value if isinstance(value, str) else value.stem
)
def test_imports_go_down(room, path):
    lower = {other for row in ROWS[: row_of(room)] for other in row}
    assert rooms(imports(path)) <= lower | {room}
    heavy = {
        library
        for library in (TENSORFLOW, KERAS)
        if any(i.split(".")[0] == library for i in imports(path))
    }
    assert heavy <= HEAVY.get(room, set())


def test_the_data_side_and_the_model_side_do_not_know_each_other():
    known: dict[str, set[str]] = {}
    for room, path in modules():
        known.setdefault(room, set()).update(rooms(imports(path)))
    assert not known["model"] & {"data"}
    assert not known["data"] & {"model"}


def test_data_prep_builds_on_the_data_side_only():
    allowed = {
        "errors",
        "io",
        "method",
        "config",
        "annotations",
        "data",
        "drawing",
        "beam_options",
    }
    for path in (ROOT / "data_prep").glob("*.py"):
        assert rooms(imports(path)) <= allowed, path.name


def test_scripts_call_the_command_line_only():
    # Except for the one that draws the inside of the decoder, which no command shows.
    for path in set((ROOT / "scripts").glob("*.py")) - {ROOT / "scripts" / "draw_decoder.py"}:
        assert rooms(imports(path)) <= {"cli"}, path.name


def loaded_by(code: str) -> set[str]:
    """Names of all modules that a fresh process has loaded after running the code."""
    script = f"import sys; {code}; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=ROOT, capture_output=True, text=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("code", [
    "import personlab_keras; personlab_keras.COCO_PERSON, personlab_keras.Config",
    "import personlab_keras; personlab_keras.decode, personlab_keras.draw, personlab_keras.evaluate",
    "import personlab_keras.synthetic, personlab_keras.method.targets",
    "import personlab_keras.cli.parser as parser; parser.build_parser()",
    "import personlab_keras.cli; personlab_keras.cli.main(['import-weights', '--list'])",
])  # fmt: skip
def test_light_parts_load_neither_tensorflow_nor_keras(code):
    assert not {"tensorflow", "keras", "jax"} & loaded_by(code)


def test_loading_a_model_directory_loads_nothing_of_training_or_export(model_directory):
    loaded = loaded_by(f"import personlab_keras; personlab_keras.load({str(model_directory)!r})")
    strangers = ("training", "export", "evaluation", "data", "synthetic", "serving", "demo")
    prefixes = tuple(f"personlab_keras.{room}" for room in strangers)
    assert not [
        name for name in loaded if name.startswith(prefixes) or name.startswith("data_prep")
    ]


def test_public_names_are_there():
    import personlab_keras

    for name in personlab_keras.__all__:
        assert getattr(personlab_keras, name) is not None
    assert callable(personlab_keras.decode)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = personlab_keras.nonsense


def test_public_names_have_examples():
    import personlab_keras

    for name in personlab_keras.__all__:
        assert ">>> " in (getattr(personlab_keras, name).__doc__ or ""), name
