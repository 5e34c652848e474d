"""The directory of one run: results/runs/<task>/<solver>/seed<k>-<hash8>/ (design: run record).

    config.yaml    what identifies the run, resolved
    meta.json      hashes of the initial weights and of the batch order, data md5s, and for each
                   start: time, commit, versions, machine
    metrics.csv    a row an epoch; the same bits on every CPU run of the same versions and threads
    timing.csv     a row an epoch: separate clocks, images/s
    consumed.csv   the sha256 of what each epoch has consumed: examples, order, augmentation
    steps.npz      a row an iteration for the first epochs, quantiles for every epoch
    pictures/      small pictures of what the model does, of tasks that draw some (WebP)
    result.json    final metrics; written last, only on success

Checkpoints and the full series lie elsewhere, under the same relative path.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout
from PIL.Image import Image

from bpgrad.errors import RecordError
from bpgrad.records.files import write_atomically, write_text

Row = dict[str, float]


class RunRecord:
    """Reads and writes the files of one run.

    `name` is the relative path, `results` and `checkpoints` the two roots.
    """

    def __init__(self, results: Path, checkpoints: Path, name: str) -> None:
        self.name = name
        self.directory = results / name
        self.checkpoints = checkpoints / name
        self._lock = FileLock(self.checkpoints / "lock")

    def lock(self) -> None:
        """Claim the run for this process until `unlock` or its death.

        Raises RecordError if another process is at it, or if a folder cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RecordError(
                f"{self.directory} is in use by another process; wait for it or stop it"
            ) from error
        except OSError as error:
            raise RecordError(
                f"cannot write {error.filename or self.directory}: {error.strerror}; set "
                "results_root and checkpoint_root to folders you can write"
            ) from error

    def unlock(self) -> None:
        """Let other processes have the run."""
        self._lock.release()

    def result(self) -> dict[str, Any] | None:
        """The final metrics if the run has finished, else None."""
        return self._read_json("result.json")

    def meta(self) -> dict[str, Any]:
        """What is known of the run's starts and hashes; empty for a new run."""
        return self._read_json("meta.json") or {}

    def rows(self, file: str = "metrics.csv") -> list[Row]:
        """The rows of a CSV file of the run; none if it is not there yet."""
        path = self.directory / file
        if not path.exists():
            return []
        try:
            with path.open(newline="") as lines:
                return [
                    {key: float(value) if value else float("nan") for key, value in row.items()}
                    for row in csv.DictReader(lines)
                ]
        except (TypeError, ValueError) as error:
            raise RecordError(f"{path} is damaged ({error}); rerun=true makes it again") from error

    def check_config(self, description: Mapping[str, Any]) -> None:
        """Compare the recorded configuration with the one that is about to run, key by key.

        Raises RecordError where the two differ: the directory's name then no longer says what is
        in it (an edited file, or a changed default). Keys that one of them lacks do not count.
        """
        path = self.directory / "config.yaml"
        if path.exists():
            recorded = yaml.safe_load(path.read_text())
            key = _first_difference(recorded, json.loads(json.dumps(description)))
            if key is not None:
                raise RecordError(
                    f"{path} describes another run (they differ in {key}); move the directory away"
                )

    def clear(self) -> None:
        """Forget an earlier run's result and rows, before it is done again."""
        for file in (
            *("result.json", "metrics.csv", "timing.csv"),
            "consumed.csv",
            "steps.npz",
            "meta.json",
        ):
            (self.directory / file).unlink(missing_ok=True)

    def write_config(self, description: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(json.loads(json.dumps(description)), sort_keys=False)
        write_text(self.directory / "config.yaml", text)

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        self._write_json("meta.json", meta)

    def write_rows(self, file: str, rows: Sequence[Mapping[str, float]]) -> None:
        """Write all rows of a CSV file; what only some rows have is empty in the others."""
        columns = dict.fromkeys(key for row in reversed(rows) for key in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.directory / file, text.getvalue())

    def write_consumed(self, hashes: Sequence[str]) -> None:
        lines = ("epoch,sha256", *(f"{epoch},{sha256}" for epoch, sha256 in enumerate(hashes, 1)))
        write_text(self.directory / "consumed.csv", "\n".join(lines) + "\n")

    def consumed(self) -> list[str]:
        """The sha256 of what each epoch has consumed; none in records older than that file."""
        path = self.directory / "consumed.csv"
        if not path.exists():
            return []
        with path.open(newline="") as lines:
            return [row["sha256"] for row in csv.DictReader(lines)]

    def write_steps(self, arrays: Mapping[str, np.ndarray]) -> None:
        write_atomically(
            self.directory / "steps.npz",
            lambda file: np.savez_compressed(file, **dict(arrays)),  # type: ignore[arg-type]
        )

    def write_picture(self, name: str, picture: Image) -> None:
        write_atomically(
            self.directory / "pictures" / f"{name}.webp",
            lambda file: picture.save(file, "WEBP", quality=80),
        )

    def write_result(self, result: Mapping[str, Any]) -> None:
        self._write_json("result.json", result)

    def _read_json(self, file: str) -> dict[str, Any] | None:
        path = self.directory / file
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise RecordError(f"{path} is damaged ({error}); delete it to run again") from error

    def _write_json(self, file: str, content: Mapping[str, Any]) -> None:
        write_text(self.directory / file, json.dumps(content, indent=2) + "\n")


def _first_difference(one: Any, other: Any, key: str = "") -> str | None:
    """The first key, dotted, that both have with different values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one.keys() & other.keys():
            if found := _first_difference(one[name], other[name], f"{key}.{name}".strip(".")):
                return found
        return None
    return None if one == other else key
