"""Checkpoints: tensors and primitives only, written atomically, refused when they do not fit."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from bpgrad.errors import CheckpointError
from bpgrad.records.files import write_atomically

FORMAT = 1


def save(path: Path, run: str, state: dict[str, Any]) -> None:
    """Write a checkpoint of the run of that name; a kill at any moment leaves the old or the new.

    Raises RecordError if it cannot be written.
    """
    content = {"format": FORMAT, "run": run, "state": state}
    write_atomically(path, lambda file: torch.save(content, file))


def load(path: Path, run: str) -> dict[str, Any] | None:
    """Read the checkpoint of the run of that name onto the CPU; None if there is none.

    Raises CheckpointError if it is damaged, or another run's.
    """
    if not path.exists():
        return None
    mend = "add rerun=true to discard it and start from the beginning"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content["format"], content["run"]
        state: dict[str, Any] = content["state"]
    except (
        RuntimeError,
        EOFError,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise CheckpointError(
            f"checkpoint {path} is truncated or not one of ours ({first_line}); {mend}"
        ) from error
    if found != (FORMAT, run):
        raise CheckpointError(
            f"checkpoint {path} belongs to run {found[1]} (format {found[0]}), not to {run} "
            f"(format {FORMAT}); {mend}"
        )
    return state
