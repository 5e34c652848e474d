"""Runs as jobs of a Slurm cluster (launcher=slurm), by submitit and Hydra's plugin for it."""

import os
import re
import shlex
import subprocess
from pathlib import Path

from bpgrad.errors import BPGradError, ConfigError

CHECKOUT = Path(__file__).resolve().parents[2]

# What sbatch complains about, in its words, and the key that asks for it.
KEYS = {
    r"gres|gpus?\b|generic resource": "gpus_per_node (null: no GPU)",
    r"memory": "mem_gb",
    r"cpu|node configuration": "cpus_per_task, tasks_per_node or nodes",
    r"time limit": "timeout_min",
    r"partition": "partition",
    r"account": "account",
    r"qos": "qos",
}


def enter(sweep: bool) -> None:
    """At the start of a job: describe its tasks as torchrun would, for they train one model.

    Raises ConfigError where this is no job: only sweeps are submitted.
    """
    if not sweep:
        raise ConfigError("launcher=slurm submits sweeps: add -m, or choose launcher=local")
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "RANK" not in os.environ:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


def default_gpus() -> int | None:
    """One GPU for a run where the cluster has any, else none."""
    try:
        shown = subprocess.run(
            ["sinfo", "--noheader", "--format=%G"],
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return 1 if re.search(r"\bgpu\b", shown) else None


def export_path() -> str:
    """The shell command that lets a job import the suite, whatever folder it was submitted from."""
    return f"export PYTHONPATH={shlex.quote(str(CHECKOUT))}:$PYTHONPATH"


def explained(error: RuntimeError) -> BPGradError | None:
    """What submitit raises where a job cannot be submitted or has failed, as one line; or None."""
    text = str(error)
    if "srun" in text and "detect" in text:
        return ConfigError("launcher=slurm: srun is not on the PATH; is this a cluster?")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if said := [line for line in lines if line.startswith("sbatch:")]:
        words = "; ".join(
            line.removeprefix("sbatch:").removeprefix(" error:").strip() for line in said
        )
        keys = [key for pattern, key in KEYS.items() if re.search(pattern, words, re.IGNORECASE)]
        mend = f"; set hydra.launcher.{keys[0]}" if keys else "; see configs/launcher/slurm.yaml"
        return ConfigError(f"launcher=slurm: sbatch refuses the job: {words}{mend}")
    if failed := re.match(r"(Job .*?) failed .*?\n([^\n]+)\n+-+\n.*?(/\S+\.err)", text, re.DOTALL):
        job, last, log = failed.groups()
        return BPGradError(f"launcher=slurm: {job} failed: {last} (log: {log})")
    return None
