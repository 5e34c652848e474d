"""Run records made up for the tests, written by the class that writes the real ones."""

import json
from dataclasses import replace
from pathlib import Path

from bpgrad.records.files import write_text
from bpgrad.records.run_record import RunRecord
from bpgrad.reporting.runs import Comparison, Run, read_run
from bpgrad.tasks.task import Metric

METRICS = {"objective": Metric("objective"), "top1_error": Metric("top-1 error", "%")}


def make_record(
    folder: Path,
    solver: str,
    seed: int = 0,
    *,
    task: str = "mnist",
    level: float = 1.0,
    epochs: int = 3,
    done: int | None = None,
    precision: str = "fp32",
    device: str = "cpu",
    **meta: object,
) -> RunRecord:
    """Record `done` epochs (None: all); the objective falls from `level`, the error is 10 × it."""
    record = RunRecord(folder / "runs", folder / "checkpoints", f"{task}/{solver}/seed{seed}-0")
    record.write_config({"epochs": epochs, "precision": precision})
    machine = {"device": device, "cpu": "A CPU", "gpu": "A GPU", "threads": 2, "world_size": 1}
    record.write_meta(
        {
            **_begun(seed),
            "starts": [{"machine": machine}],
            **meta,
        }
    )
    rows, times = [], []
    for epoch in range(1, (epochs if done is None else done) + 1):
        objective = level / epoch
        rows.append(
            {
                "epoch": epoch,
                "train_objective": objective,
                "train_top1_error": 10 * objective,
                "val_objective": 2 * objective,
                "val_top1_error": 20 * objective,
            }
        )
        times.append({"epoch": epoch, "train_seconds": 2.0 * epoch, "images_per_second": 100.0})
    if rows:
        record.write_rows("metrics.csv", rows)
        record.write_rows("timing.csv", times)
    if done is None:
        # Without checksums, as older records: tests change what lies beside it.
        write_text(record.directory / "result.json", json.dumps({"epochs": epochs}))
    return record


def _begun(seed: int) -> dict[str, str]:
    return {
        "initial_weights_sha256": f"weights of seed {seed}",
        "batch_order_sha256": f"order of seed {seed}",
    }


def make_run(folder: Path, solver: str, seed: int = 0, **options: object) -> Run:
    """The run of `make_record`, read."""
    return read_run(make_record(folder, solver, seed, **options), solver, seed)  # type: ignore[arg-type]


def like(run: Run, solver: str, seed: int, level: float = 1.0) -> Run:
    """What `make_run` makes of these, from its run at level 1 and with nothing on the disk."""
    rows = run.rows.copy()
    rows[[name for name in rows if name.endswith(("objective", "error"))]] *= level
    return replace(run, solver=solver, seed=seed, meta=run.meta | _begun(seed), rows=rows)


def compare(*runs: Run, task: str = "mnist") -> Comparison:
    return Comparison(task, METRICS, runs)
