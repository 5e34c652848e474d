"""The Weights & Biases mirror of a run, where one is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bpgrad.records.run_record import Row, RunRecord
from bpgrad.training.config import Config
from bpgrad.training.history import History
from bpgrad.training.identity import describe

if TYPE_CHECKING:
    from bpgrad.records.wandb_mirror import WandbMirror


@contextmanager
def mirrored(
    cfg: Config, record: RunRecord, history: History, *, wanted: bool
) -> Iterator[Callable[[Row], None]]:
    """What takes up an epoch's row while the run goes on; nothing happens where none is wanted."""
    mirror, exit_code = open_mirror(cfg, record) if wanted else None, 1
    try:
        yield (lambda row: None) if mirror is None else mirror.log
        exit_code = 0
    finally:
        if mirror is not None:
            # A rerun has taken the old record's place.
            pictures = (record.replaces or record).pictures() if exit_code == 0 else {}
            mirror.finish(history.metrics, exit_code, pictures)


def open_mirror(cfg: Config, record: RunRecord) -> WandbMirror | None:
    """Begin to mirror a run, with the rows that it has already; None if it is not wanted."""
    if cfg.wandb.mode == "disabled":
        return None
    from bpgrad.records.wandb_mirror import WandbMirror

    task, solver, leaf = record.name.split("/")
    rows = zip(record.rows(), record.rows("timing.csv"), strict=True)
    return WandbMirror(
        run_id=leaf.rpartition("-")[2],
        name=f"{task} {solver} {leaf}",
        group=f"{task}-{solver}",
        config=describe(cfg),
        project=cfg.wandb.project,
        entity=cfg.wandb.entity,
        mode=cfg.wandb.mode,
        directory=record.checkpoints,
        past_rows=[metrics | timing for metrics, timing in rows],
    )
