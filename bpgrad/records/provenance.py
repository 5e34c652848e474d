"""Where a number comes from: hashes of what went in, and the machine and code that made it."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CODE = ("bpgrad", "configs", "experiments", "scripts", "run.py", "requirements.lock")
ROOT = Path(__file__).resolve().parents[2]
COMMIT_VARIABLE = "BPGRAD_GIT_SHA"  # where there is no git: in a container, of a copied tree


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 over names, types, shapes and values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def is_channels_last(model: nn.Module) -> bool:
    """Whether a model has weights of convolutions, and all are stored so."""
    weights = [weight for weight in model.parameters() if weight.dim() == 4]
    return bool(weights) and all(
        weight.is_contiguous(memory_format=torch.channels_last) for weight in weights
    )


def describe_start(
    *, device: torch.device, world_size: int, epoch: int, iteration: int
) -> dict[str, Any]:
    """Time, commit, versions and machine of one start of a run, at (epoch, iteration)."""
    place = {"epoch": epoch, "iteration": iteration}
    return _now() | place | describe_environment(device=device, world_size=world_size)


def describe_computation() -> dict[str, Any]:
    """Time, commit, versions and machine of what is computed in this process on the CPU."""
    return _now() | describe_environment(device=torch.device("cpu"), world_size=1)


def describe_environment(*, device: torch.device, world_size: int) -> dict[str, Any]:
    """Commit, versions and machine of this process."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        **describe_code(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "numpy", "hydra-core")},
            "cuda": torch.version.cuda if gpu else None,
            **({"cudnn": str(torch.backends.cudnn.version()), "driver": _driver()} if gpu else {}),
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": device.type,
            "gpu": gpu,
            "world_size": world_size,
        },
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "mkldnn": torch.backends.mkldnn.is_available(),
    }


def describe_code() -> dict[str, Any]:
    """The commit, and whether the code has changes beside it; None where that is not known.

    It is known in a checkout of the suite itself, not in a copy inside another repository. There
    an archive's .git_archival.txt names the commit, or BPGRAD_GIT_SHA in the environment does.
    """
    top = _git("rev-parse", "--show-toplevel")
    if top is not None and Path(top).resolve() == ROOT:
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
        return {
            "git_sha": _git("rev-parse", "HEAD"),
            "git_dirty": None if changes is None else bool(changes),
        }
    told = os.environ.get(COMMIT_VARIABLE) or _archived()
    return {"git_sha": told, "git_dirty": None}


def _archived() -> str | None:
    """The commit that `git archive` has written into .git_archival.txt."""
    try:
        text = (ROOT / ".git_archival.txt").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(r"^node: ([0-9a-f]{40,64})$", text, flags=re.MULTILINE)
    return found[1] if found else None


def _now() -> dict[str, Any]:
    return {"time": datetime.now(UTC).isoformat(timespec="seconds")}


def _git(*arguments: str) -> str | None:
    """The output of a git command on the source tree; None outside a checkout."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _driver() -> str | None:
    """The version of NVIDIA's kernel module."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:  # not on Linux, or in a container that hides it
        return None
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", text.splitlines()[0])
    return found[1] if found else None


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
