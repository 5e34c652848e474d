"""What a run has measured so far, as it travels in checkpoints and goes into the record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch

from bpgrad.records.run_record import Row, RunRecord

FULL_EPOCHS = 4  # Figures 4 to 6 show the first four epochs, iteration by iteration
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass
class History:
    """Rows by epoch, and the per-iteration series: whole at first, quantiles throughout."""

    columns: tuple[str, ...]
    metrics: list[Row] = field(default_factory=list)
    timing: list[Row] = field(default_factory=list)
    first_epochs: list[np.ndarray] = field(default_factory=list)
    quantiles: list[np.ndarray] = field(default_factory=list)
    consumed: list[str] = field(default_factory=list)

    def add(self, series: np.ndarray, metrics: Row, timing: Row, consumed: str) -> None:
        """Append an epoch; `series` is iterations × columns, float32, `consumed` a sha256."""
        self.metrics.append(metrics)
        self.timing.append(timing)
        self.consumed.append(consumed)
        if len(self.first_epochs) < FULL_EPOCHS:
            self.first_epochs.append(series)
        self.quantiles.append(np.quantile(series, QUANTILES, axis=0).astype(np.float32))

    def write(self, record: RunRecord) -> None:
        """Bring the record's files up to the last epoch."""
        record.write_rows("metrics.csv", self.metrics)
        record.write_rows("timing.csv", self.timing)
        record.write_consumed(self.consumed)
        record.write_steps(
            {
                "columns": np.array(self.columns),
                "quantile_levels": np.array(QUANTILES),
                "quantiles": np.stack(self.quantiles),
                **{f"epoch{k}": series for k, series in enumerate(self.first_epochs, 1)},
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives for a checkpoint."""
        return {
            "metrics": self.metrics,
            "timing": self.timing,
            "consumed": self.consumed,
            "first_epochs": [torch.from_numpy(series) for series in self.first_epochs],
            "quantiles": [torch.from_numpy(values) for values in self.quantiles],
        }

    @classmethod
    def from_state_dict(cls, columns: Sequence[str], state: Mapping[str, Any]) -> Self:
        """The history that `state_dict` described."""
        return cls(
            tuple(columns),
            list(state["metrics"]),
            list(state["timing"]),
            [series.numpy() for series in state["first_epochs"]],
            [values.numpy() for values in state["quantiles"]],
            list(state["consumed"]),
        )


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
