"""What a run has measured so far: in memory the last epoch, on disk a row more with every epoch.

A checkpoint carries the last row and a chained sha256 of all before it, so that neither it nor an
epoch's writing grows with the run. What a resume finds on disk has to have these hashes; what was
recorded after the checkpoint is cut.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bpgrad.errors import DamagedRecordError
from bpgrad.records.files import write_array
from bpgrad.records.run_record import Row, RunRecord

FULL_EPOCHS = 4  # Figures 4 to 6 show the first four epochs, iteration by iteration
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
FILES = ("metrics.csv", "consumed.csv", "timing.csv")
SERIES = "series"  # the per-iteration series, a file an epoch


@dataclass
class Position:
    """Where a run stands: the next iteration to do, and the epoch so far."""

    epoch: int = 1
    iteration: int = 0
    train_seconds: float = 0.0
    consumed: str = ""  # the sha256 of what each iteration has consumed, chained

    def advance(self, consumed: Sequence[bytes]) -> None:
        """Count iterations that have consumed this."""
        self.iteration += len(consumed)
        for what in consumed:
            self.consumed = _chained(self.consumed, what)


@dataclass
class History:
    """The rows of the epochs done, and the per-iteration series of each beside the checkpoints.

    `last` has the last epoch's row of each file, `digests` the chained sha256 of all rows; that of
    timing.csv stays empty, because a row there is known only when the others have been written.
    """

    columns: tuple[str, ...]
    epochs: int = 0
    train_seconds: float = 0.0
    last: dict[str, Row] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def metrics(self) -> Row:
        """The last epoch's row of metrics.csv; empty before the first."""
        return self.last.get("metrics.csv", {})

    def add(self, series: np.ndarray, metrics: Row, timing: Row, consumed: str) -> None:
        """Take up an epoch; `series` is iterations × columns, float32, `consumed` a sha256."""
        self.epochs += 1
        self.train_seconds += timing["train_seconds"]
        used: dict[str, Any] = {"epoch": self.epochs, "sha256": consumed}
        self.last = {"metrics.csv": metrics, "consumed.csv": used, "timing.csv": timing}
        for file in ("metrics.csv", "consumed.csv"):
            self.digests[file] = _chained(self.digests.get(file, ""), _canonical(self.last[file]))
        self.digests[SERIES] = _chained(self.digests.get(SERIES, ""), series.tobytes())

    def write_series(self, record: RunRecord, series: np.ndarray) -> None:
        """Write the last epoch's series; before the checkpoint, which does not carry it."""
        write_array(_path(record, self.epochs), series)

    def write_rows(self, record: RunRecord) -> None:
        """Append the last epoch's rows; after the checkpoint, which brings them back if lost."""
        for file in FILES:
            record.append_row(file, self.last[file])
        if self.epochs <= FULL_EPOCHS or self.epochs.bit_count() == 1:  # seldom: it takes them all
            self.write_steps(record)

    def write_steps(self, record: RunRecord) -> None:
        """Bring steps.npz up to the last epoch.

        Raises RecordError if a series is not the one that the run has measured.
        """
        if not self.epochs:
            return
        first: list[np.ndarray] = []
        quantiles = []
        for series in self._series(record):
            if len(first) < FULL_EPOCHS:
                first.append(series)
            quantiles.append(np.quantile(series, QUANTILES, axis=0).astype(np.float32))
        record.write_steps(
            {
                "columns": np.array(self.columns),
                "quantile_levels": np.array(QUANTILES),
                "quantiles": np.stack(quantiles),
                **{f"epoch{k}": series for k, series in enumerate(first, 1)},
            }
        )

    def bring_back(self, record: RunRecord) -> None:
        """Bring the record's files to where the checkpoint was saved.

        Raises RecordError if they do not hold what had been recorded then.
        """
        for file in FILES:
            kept = record.recorded(file)[: self.epochs]
            rows: list[Mapping[str, object]] = list(kept)
            if self.epochs and len(rows) == self.epochs - 1:  # killed before the row was appended
                rows.append(self.last[file])
            digest = ""
            for row in rows:
                digest = _chained(digest, _canonical(row))
            if len(rows) != self.epochs or digest != self.digests.get(file, digest):
                raise _lost(record.directory / file)
            record.cut_rows(file, len(kept))
            if len(rows) > len(kept):
                record.append_row(file, rows[-1])
        for _ in self._series(record):
            pass  # each is checked; steps.npz comes with the next epochs
        if not self.epochs:
            (record.directory / "steps.npz").unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Primitives for a checkpoint, as many after the last epoch as after the first."""
        return {
            "epochs": self.epochs,
            "train_seconds": self.train_seconds,
            "last": {file: dict(row) for file, row in self.last.items()},
            "digests": dict(self.digests),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the history that `state_dict` described."""
        if state["epochs"] and set(state["last"]) != set(FILES):
            raise ValueError("history: rows are missing")
        self.epochs, self.train_seconds = state["epochs"], state["train_seconds"]
        self.last, self.digests = dict(state["last"]), dict(state["digests"])

    def _series(self, record: RunRecord) -> Iterator[np.ndarray]:
        """The series of every epoch, checked when the last has been read."""
        digest = ""
        for epoch in range(1, self.epochs + 1):
            path = _path(record, epoch)
            try:
                series = np.load(path)
                if series.shape[1:] != (len(self.columns),) or series.dtype != np.float32:
                    raise ValueError(f"{series.shape} {series.dtype}")
            except (OSError, ValueError, EOFError) as error:
                raise _lost(path) from error
            digest = _chained(digest, series.tobytes())
            yield series
        if digest != self.digests.get(SERIES, ""):
            raise _lost(_path(record, 1).parent)


def _path(record: RunRecord, epoch: int) -> Path:
    return record.checkpoints / "steps" / f"epoch{epoch:04d}.npy"


def _lost(path: Path) -> DamagedRecordError:
    return DamagedRecordError(
        f"{path} does not hold what had been recorded when the checkpoint was saved; restore it, "
        "or make the run again with rerun=true"
    )


def _canonical(row: Mapping[str, object]) -> bytes:
    """A row as it stands in a file, whatever the order of its columns."""
    return repr(sorted((key, str(value)) for key, value in row.items())).encode()


def _chained(digest: str, content: bytes) -> str:
    return hashlib.sha256(digest.encode() + content).hexdigest()


def epoch_metrics(
    epoch: int,
    series: np.ndarray,
    sizes: Sequence[int],
    train_metrics: Sequence[str],
    rate: float | None,
) -> Row:
    """The row of an epoch as far as training gives it; `sizes` are those of the minibatches."""
    row: Row = {"epoch": epoch, "iterations": epoch * len(sizes)}
    if rate is not None:
        row["lr"] = rate
    return row | epoch_means(series, sizes, train_metrics)


def epoch_timing(
    epoch: int, examples: int, seconds: tuple[float, float, float], concurrent_runs: int
) -> Row:
    """The row of an epoch's clocks: of training, evaluation, evaluation on the training set.

    That of writing is known when the rows are written. In company of other runs a clock counts
    their turns too.
    """
    names = ("train_seconds", "eval_seconds", "fixed_seconds")
    return {
        "epoch": epoch,
        **dict(zip(names, (round(value, 3) for value in seconds), strict=True)),
        "log_seconds": 0.0,
        "images_per_second": round(examples / seconds[0], 1),
        **({"concurrent_runs": concurrent_runs} if concurrent_runs > 1 else {}),
    }


def epoch_means(series: np.ndarray, sizes: Sequence[int], names: Sequence[str]) -> Row:
    """Example-weighted means over an epoch of the leading columns, as train_<name>."""
    weights = np.asarray(sizes, dtype=np.float64)
    means = weights @ series[:, : len(names)].astype(np.float64) / weights.sum()
    return {f"train_{name}": float(mean) for name, mean in zip(names, means, strict=True)}


def step_summary(series: np.ndarray, columns: Sequence[str]) -> Row:
    """The smallest, median and largest step size η, and the median gradient norm, if recorded."""
    row: Row = {}
    if "step_size" in columns:
        values = series[:, columns.index("step_size")].astype(np.float64)
        row["step_size_min"] = float(values.min())
        row["step_size_median"] = float(np.median(values))
        row["step_size_max"] = float(values.max())
    if "grad_norm" in columns:
        row["grad_norm_median"] = float(np.median(series[:, columns.index("grad_norm")]))
    return row
