"""Files around the package: workflows, citation, packaging."""

import re
from pathlib import Path

import pytest
import yaml

import personlab_keras

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_rights_are_few(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job.get("timeout-minutes") or set(job["permissions"]) == {"pages", "id-token"}
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
    assert text.count("  # v") == text.count("uses: ")  # the version that the digest stands for
    assert "pull_request_target" not in text
    assert "${{ github.event" not in text


def test_a_release_uses_no_cache_and_no_password():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    steps = [step for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"]]
    assert not any("cache" in str(step).lower() for step in steps)
    assert "secrets." not in text
    assert yaml.safe_load(text)["jobs"]["publish"]["permissions"] == {"id-token": "write"}


def test_workflows_install_by_hash_alone():
    """Each step of pip checks hashes, or looks into a folder of files that were checked; `latest`
    tests what nobody has pinned, `torch` what only some install.
    """
    steps = [
        (path.stem, name, step)
        for path in WORKFLOWS
        for name, job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items()
        for step in job["steps"]
        if re.search(r"\bpip (install|download)|sbom\.sh|\.ci/run", step.get("run", ""))
    ]
    assert len(steps) >= 8
    unchecked = {
        (workflow, job)
        for workflow, job, step in steps
        if "--require-hashes" not in step["run"]
        and "--no-index" not in step["run"]
        and step.get("env", {}).get("PIP_NO_INDEX") != "1"
    }
    assert unchecked == {("tests", "latest"), ("tests", "torch")}
    text = (ROOT / "scripts" / "sbom.sh").read_text(encoding="utf-8")
    assert re.findall(r"--requirement (\S+)", text) == [".github/sbom-hashes.txt"]


def test_every_pinned_version_has_hashes():
    def pinned(name):
        text = (ROOT / name).read_text(encoding="utf-8")
        return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)), text

    def normal(versions):
        return {re.sub(r"[-_.]+", "-", name).lower(): each for name, each in versions.items()}

    versions, _ = pinned("requirements.txt")
    locked, text = pinned("requirements-hashes.txt")
    assert normal(versions).items() <= normal(locked).items()
    assert locked.keys() - normal(versions).keys() == {"setuptools", "wheel"}
    for part in re.split(r"(?=^[a-z])", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in part, part


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == personlab_keras.__version__
    assert {"cff-version", "title", "message", "authors", "license"} <= citation.keys()
    assert citation["references"][0]["url"].endswith("1803.08225")
