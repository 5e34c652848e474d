"""Checkpoints: tensors and primitives only, written atomically, refused when they do not fit.

A file is a line "bpgrad checkpoint <format>", a line with the sha256 of the rest, and the rest:
what torch.save wrote. Nothing of it is believed before that hash is right; torch itself does not
notice a changed byte. The checkpoint before the last is kept.
"""

import hashlib
import io
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bpgrad.errors import CheckpointError
from bpgrad.records.files import told_as_one_line, write_atomically

FORMAT = 2
TITLE = b"bpgrad checkpoint "
AGAIN = "rerun=true makes the run again from the beginning"


def save(path: Path, run: str, state: dict[str, Any]) -> None:
    """Write a checkpoint of the run of that name, and keep the one before it.

    A kill at any moment leaves the old or the new. Raises RecordError if it cannot be written.
    """
    # In memory first: on a full disk torch raises an error of its own, which says something else.
    payload = io.BytesIO()
    torch.save({"run": run, "state": state}, payload)
    content = payload.getbuffer()
    head = TITLE + f"{FORMAT}\n{hashlib.sha256(content).hexdigest()}\n".encode()

    def write(file: Any) -> None:
        file.write(head)
        file.write(content)

    newest = path.with_name(f"{path.name}.new")
    write_atomically(newest, write)
    with told_as_one_line(path):
        if path.exists():
            os.replace(path, previous(path))
        os.replace(newest, path)


def previous(path: Path) -> Path:
    """Where the checkpoint before the last is kept."""
    return path.with_name(f"previous-{path.name}")


def load(path: Path, run: str) -> dict[str, Any] | None:
    """Read the checkpoint of the run of that name onto the CPU; None if there is none.

    Raises CheckpointError if it is damaged, or another run's; the message says whether the one
    before it is whole.
    """
    if not path.exists() and previous(path).exists():  # killed between the renames of `save`
        path = previous(path)
    if not path.exists():
        return None
    try:
        return _read(path, run)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_mend(path, run)}") from error


def _read(path: Path, run: str) -> dict[str, Any]:
    try:
        title, recorded, content = path.read_bytes().split(b"\n", 2)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it has no heading"
        raise CheckpointError(f"checkpoint {path} is damaged or not one of ours ({why})") from error
    if not title.startswith(TITLE):
        raise CheckpointError(f"checkpoint {path} is damaged or not one of ours (its heading)")
    if title != TITLE + str(FORMAT).encode():
        found = title.removeprefix(TITLE).decode(errors="replace")[:20]
        raise CheckpointError(f"checkpoint {path} has the format {found}, not {FORMAT}")
    if hashlib.sha256(content).hexdigest().encode() != recorded:
        raise CheckpointError(f"checkpoint {path} is damaged (its checksum is another)")
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        found_run, state = found["run"], found["state"]
    except Exception as error:  # whole, but not what `save` writes
        why = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise CheckpointError(f"checkpoint {path} is not one of ours ({why})") from error
    if found_run != run or not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {path} belongs to run {found_run}, not to {run}")
    return state


def _mend(path: Path, run: str) -> str:
    if path != previous(path) and previous(path).exists():
        with suppress(CheckpointError):
            _read(previous(path), run)
            return (
                f"the one before it, {previous(path).name}, is whole: delete {path.name} to go on "
                f"from there, or {AGAIN}"
            )
    return AGAIN


def check(path: Path, state: Mapping[str, Any], like: Mapping[str, Any], epochs: int) -> None:
    """Compare a checkpoint's state with the one that the run would save now: keys, types, shapes.

    The solver's state is its own, and it checks that itself. Raises CheckpointError that names
    the first key which does not fit.
    """
    found = _misfit(state, {**like, "solver": {}, "history": {}, "cuda_rng": []}, "")
    if not found:
        at, iterations = state["position"], len(state["series"])
        whole = 1 <= at["epoch"] <= epochs + 1 and 0 <= at["iteration"] <= iterations
        if not (whole and 0 <= at["train_seconds"] < math.inf):
            found = f"position: {at}, of {epochs} epochs of {iterations} iterations"
        elif at["epoch"] != state["history"].get("epochs", 0) + 1:
            found = f"position: epoch {at['epoch']}, another in its history"
    if found:
        raise misfit(path, found)


def misfit(path: Path, why: object) -> CheckpointError:
    """The error of a checkpoint that is whole and does not fit the run."""
    line = " ".join(str(why).split())[:200]
    return CheckpointError(f"checkpoint {path} does not fit the run ({line}); {AGAIN}")


def _misfit(found: Any, like: Any, key: str) -> str | None:
    """The first key, dotted, at which two trees of tensors and primitives differ in form."""
    if isinstance(like, Tensor):
        if isinstance(found, Tensor) and (found.shape, found.dtype) == (like.shape, like.dtype):
            return None
        return f"{key}: not a tensor of shape {tuple(like.shape)}, {like.dtype}"
    if not isinstance(found, Mapping if isinstance(like, Mapping) else type(like)):
        return f"{key}: {type(found).__name__}, not {type(like).__name__}"
    if isinstance(like, Mapping) and like:
        if found.keys() != like.keys():
            return f"{key or 'keys'}: {', '.join(map(str, sorted(found.keys() ^ like.keys())))}"
        for name, value in like.items():
            if wrong := _misfit(found[name], value, f"{key}.{name}".strip(".")):
                return wrong
    return None
