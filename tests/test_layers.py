"""The order of the house: a module imports from lower rows only. `docs/architecture.md` draws this table."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TENSORFLOW, KERAS = "tensorflow", "keras"

# Row by row: modules (a package stands for all of its modules) -> which of the two heavy libraries they may import.
ROWS: list[dict[str, set[str]]] = [
    {"errors": set(), "startup": {TENSORFLOW}},
    {"files": set()},
    {"skeleton": set(), "coordinates": set(), "tfrecords": set()},
    {"config": set(), "maps": set(), "person": set(), "layers": {KERAS}, "released": {KERAS}},
    {"description": set(), "images": set(), "targets": set(), "decoder": set(), "drawing": set(), "synthetic": set()}
    | {"backbones": {KERAS}, "refinement": {KERAS}, "losses": {KERAS}},
    {"runtimes": {TENSORFLOW, KERAS}, "in_graph": {TENSORFLOW, KERAS}},
    {"fitting": set(), "evaluation": set(), "records": set(), "model": {KERAS}, "optimisers": {KERAS}}
    | {"devices": {TENSORFLOW, KERAS}, "checkpoints": {KERAS}, "journal": {TENSORFLOW}},
    {"augmentation": {TENSORFLOW}, "pretrained": {KERAS}},
    {"data": {TENSORFLOW}},
    {"validation": {TENSORFLOW, KERAS}, "trainee": {KERAS}},
    {"train": {KERAS}},
    {"export": {KERAS}},
    {"predict": set(), "conversion": {TENSORFLOW, KERAS}},
    {"demo": set(), "stream": set(), "serving": set(), "many": {TENSORFLOW}},
    {"cli": set()},
]

DATA_PREP = {
    "skeleton",
    "coordinates",
    "config",
    "targets",
    "records",
    "errors",
    "images",
    "files",
    "startup",
    "augmentation",
    "data",
    "drawing",
    "maps",
    "tfrecords",
}


def modules():
    for path in sorted((ROOT / "personlab_keras").rglob("*.py")):
        parts = path.relative_to(ROOT / "personlab_keras").with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], path


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def ours(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("personlab_keras.")}


def test_every_module_has_a_row():
    assert {name for name, _ in modules()} == {name for row in ROWS for name in row}


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: value if isinstance(value, str) else value.name)
def test_imports_go_down(name, path):
    row = next(i for i, row in enumerate(ROWS) if name in row)
    assert ours(imports(path)) <= {other for lower in ROWS[:row] for other in lower} | {name}
    heavy = {library for library in (TENSORFLOW, KERAS) if any(i.split(".")[0] == library for i in imports(path))}
    assert heavy <= ROWS[row][name]


def test_the_data_side_and_the_model_side_do_not_know_each_other():
    known = {name: set() for name, _ in modules()}
    for name, path in modules():
        known[name] |= ours(imports(path))
    model_side = {"layers", "released", "backbones", "refinement", "losses", "model", "pretrained"}
    assert not {"records", "data"} & set().union(*(known[name] for name in model_side))
    assert not model_side & (known["records"] | known["data"])


def test_data_prep_builds_on_the_data_side_only():
    for path in (ROOT / "data_prep").glob("*.py"):
        assert ours(imports(path)) <= DATA_PREP, path.name


def test_scripts_call_the_command_line_only():
    # But for the one that draws the inside of the decoder, which no command shows.
    for path in set((ROOT / "scripts").glob("*.py")) - {ROOT / "scripts" / "draw_decoder.py"}:
        assert ours(imports(path)) <= {"cli"}, path.name


@pytest.mark.parametrize("code", [
    "import personlab_keras; personlab_keras.COCO_PERSON, personlab_keras.Config",
    "import personlab_keras; personlab_keras.decode, personlab_keras.draw, personlab_keras.evaluate",
    "import personlab_keras.synthetic, personlab_keras.targets",
    "import personlab_keras.cli; personlab_keras.cli._parser()",
    "import personlab_keras.cli; personlab_keras.cli.main(['import-weights', '--list'])",
])  # fmt: skip
def test_light_parts_load_neither_tensorflow_nor_keras(code):
    check = f"import sys; {code}; assert not {{'tensorflow', 'keras', 'jax'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)


def test_public_names_are_there():
    import personlab_keras

    for name in personlab_keras.__all__:
        assert getattr(personlab_keras, name) is not None
    assert callable(personlab_keras.decode)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = personlab_keras.nonsense
