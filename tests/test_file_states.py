"""What the file system refuses is one line with the path, for every command and each of its paths.

The permissions of files do not hold root up, so the commands run without the capability to pass
over them.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
AS_ANYBODY = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


@pytest.mark.slow
def test_every_command_with_each_of_its_paths_in_every_state(
    scenes, records, workdir, model_directory, tmp_path
):
    script = [sys.executable, str(ROOT / "tests" / "file_states.py")]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("as root, permissions can only be tested with setpriv")
        script = [*AS_ANYBODY, *script]
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [*script, *map(str, (scenes, records, workdir, model_directory, work))],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )
    for path in work.rglob("*"):  # pytest removes the folder
        if not path.is_symlink() and stat.S_ISDIR(path.stat().st_mode):
            path.chmod(0o755)
    assert done.returncode == 0, done.stderr[-2000:]
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [
        (name, status, lines, left)
        for name, status, lines, left in cases
        if status != 2 or len(lines) != 1 or not lines[0].startswith("personlab ") or left
    ]
    assert not wrong
    assert len(cases) > 200
    assert not [(name, lines) for name, _, lines, _ in cases if str(work) not in lines[0]]
