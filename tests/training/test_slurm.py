"""launcher=slurm: what it says and asks for; where there is a cluster (marker slurm), two ranks."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bpgrad.training import slurm
from tests.training.conftest import tiny_overrides

ROOT = Path(__file__).resolve().parents[2]

FAILED = """Job 7 (task=0) failed during processing with trace:
----------------------
Traceback (most recent call last):
  File "submission.py", line 55, in process_job
    result = delayed.result()
ModuleNotFoundError: No module named 'mine'

----------------------
You can check full logs with 'job.stderr(0)' and 'job.stdout(0)'or at paths:
  - /folder/slurm/7/7_0_log.err
  - /folder/slurm/7/7_0_log.out
"""


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "sbatch: error: Invalid generic resource (gres) specification",
            "sbatch refuses the job: Invalid generic resource (gres) specification; set "
            "hydra.launcher.gpus_per_node (null: no GPU)",
        ),
        (
            "sbatch: error: Memory specification can not be satisfied\n"
            "sbatch: error: Batch job submission failed: Requested node configuration is not "
            "available",
            "Requested node configuration is not available; set hydra.launcher.mem_gb",
        ),
        ("sbatch: error: invalid partition specified: gpu2", "set hydra.launcher.partition"),
        ("sbatch: error: something new", "something new; see configs/launcher/slurm.yaml"),
        ('Could not detect "srun", are you indeed on a slurm cluster?', "srun is not on the PATH"),
        (
            FAILED,
            "Job 7 (task=0) failed: ModuleNotFoundError: No module named 'mine' (log: /folder",
        ),
    ],
)
def test_what_submitit_raises_is_one_line_with_the_key_to_set(said: str, line: str) -> None:
    error = slurm.explained(RuntimeError(said))
    assert error is not None
    assert line in str(error)
    assert "\n" not in str(error)


def test_other_errors_stay_as_they_are() -> None:
    assert slurm.explained(RuntimeError("a bug")) is None


@pytest.mark.parametrize(
    ("shown", "gpus"), [("gpu:a100:4", 1), ("(null)\ngpu:2", 1), ("(null)", None), (None, None)]
)
def test_a_gpu_is_asked_for_only_where_there_is_one(
    shown: str | None, gpus: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shown is not None:
        sinfo = tmp_path / "sinfo"
        sinfo.write_text(f"#!/bin/sh\ncat <<'END'\n{shown}\nEND\n")
        sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if shown is not None else str(tmp_path))
    assert slurm.default_gpus() == gpus


def test_one_task_is_no_world(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    slurm.enter(sweep=True)
    assert "RANK" not in os.environ


@pytest.mark.slow
@pytest.mark.slurm
def test_the_tasks_of_a_job_are_the_ranks_of_one_run(tmp_path: Path) -> None:
    """From a folder that is not the checkout."""
    if shutil.which("sinfo") is None or importlib.util.find_spec("submitit") is None:
        pytest.skip("Slurm, or hydra-submitit-launcher, is not installed")
    idle = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, check=False)
    if idle.returncode != 0 or not idle.stdout.strip():
        pytest.skip("Slurm is installed, but no cluster answers")
    arguments = [*tiny_overrides(tmp_path), "epochs=1", "solver=sgd"]
    request = {"tasks_per_node": 2, "cpus_per_task": 1, "mem_gb": 1, "timeout_min": 10}
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "run.py"), "-m", "launcher=slurm", *arguments),
            *(f"hydra.launcher.{key}={value}" for key, value in request.items()),
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (meta,) = (tmp_path / "runs").rglob("meta.json")
    (start,) = json.loads(meta.read_text())["starts"]
    assert start["machine"]["world_size"] == 2
