"""What cannot be run here is at least well-formed: the manifest, the images, the scripts."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from personlab_keras.cli.parser import build_parser

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "train_until_done.sh"


def job():
    jobset = yaml.safe_load((ROOT / "deploy" / "jobset.yaml").read_text(encoding="utf-8"))
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]


def test_the_jobs_of_the_manifest_fit_the_schema_of_kubernetes():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, **job()}
    kubernetes_validate.validate(whole, "1.30", strict=True)
    whole["spec"]["completions"] = "four"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(whole, "1.30", strict=True)


def test_the_manifest_starts_every_host_of_its_slice_with_a_command_that_exists():
    spec = job()["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    sides = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = int(sides[0]) * int(sides[1])
    hosts = chips // container["resources"]["limits"]["google.com/tpu"]
    assert spec["completions"] == spec["parallelism"] == hosts
    assert (ROOT / container["command"][0].removeprefix("/src/")).is_file()
    options = build_parser().parse_args(["train", *container["args"]])
    assert (options.config, options.workdir.as_posix()) == ("tpu", "/data/runs/tpu")


def test_every_image_has_its_target_and_no_root():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    first, *stages = text.split("\nFROM ")[1:]
    assert first.endswith("WORKDIR /src\n")
    targets = {stage.split()[2]: stage for stage in stages}
    assert set(targets) == {"cpu", "gpu", "tpu", "serve"}
    for stage in targets.values():
        lines = stage.splitlines()
        assert lines.index("USER 1000") > max(
            at for at, line in enumerate(lines) if line.startswith("RUN")
        )


def stub(folder: Path, body: str) -> dict[str, str]:
    """An environment whose `personlab` is a script of this body."""
    path = folder / "personlab"
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('echo "runs: trained; next: personlab export runs --out exported"', 0),
        ('echo "runs: stopped at step 3 of 9; the same command resumes from there"', 75),
        ("exit 2", 2),
        ("kill -KILL $$", 137),
    ],
)
def test_only_a_run_that_is_done_counts_as_done(body, status, tmp_path):
    run = subprocess.run([SCRIPT], env=stub(tmp_path, body), capture_output=True)
    assert run.returncode == status


def test_a_run_may_save_before_it_ends(tmp_path):
    body = 'trap "sleep 1; echo saved; exit 0" TERM; echo ready; while true; do sleep 0.1; done'
    run = subprocess.Popen([SCRIPT], env=stub(tmp_path, body), stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "ready\n"
    time.sleep(0.2)
    run.send_signal(signal.SIGTERM)
    output, _ = run.communicate(timeout=60)
    assert (run.returncode, output) == (75, "saved\n")
