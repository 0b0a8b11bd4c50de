"""Where the machine code of the decoder is cached, and that it runs where nothing can be cached."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = "from personlab_keras.decoder.sampling import place; print(place(5.0, 3.0, 4, 4, 2))"


@pytest.fixture
def install(tmp_path):
    """A copy of the package beside whose decoder no cache can be written, not even by root."""
    shutil.copytree(
        ROOT / "personlab_keras",
        tmp_path / "personlab_keras",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (tmp_path / "personlab_keras" / "decoder" / "__pycache__").write_bytes(b"")
    return tmp_path


def place(install, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    ran = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**environment, "PYTHONPATH": str(install), **variables},
        cwd=install,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    return ran.stdout.strip()


NOWHERE = {"HOME": "/dev/null/home", "XDG_CACHE_HOME": "/dev/null/cache"}


def test_a_read_only_install_without_a_home(install):
    assert place(install, **NOWHERE) == "(1, 2, 0.5, 0.5)"


def test_the_cache_is_where_the_user_wants_it(install, tmp_path):
    cache = tmp_path / "cache"
    assert place(install, NUMBA_CACHE_DIR=str(cache), **NOWHERE) == "(1, 2, 0.5, 0.5)"
    assert [path.name.split("-")[0] for path in cache.rglob("*.nbi")] == ["sampling.place"]


def test_a_cache_folder_that_cannot_be_written(install):
    assert place(install, NUMBA_CACHE_DIR="/dev/null/cache", **NOWHERE) == "(1, 2, 0.5, 0.5)"


def test_the_home_is_used_if_the_package_cannot_be_written(install, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    assert place(install, HOME=str(home), XDG_CACHE_HOME=str(home / "cache")) == "(1, 2, 0.5, 0.5)"
    assert list(home.rglob("sampling.place*.nbi"))


def test_every_loop_of_the_decoder_is_compiled_this_way():
    for path in (ROOT / "personlab_keras" / "decoder").glob("*.py"):
        if path.name != "compilation.py":
            assert "numba" not in path.read_text(encoding="utf-8"), path.name
