"""Finished runs of an experiment as runs of a Weights & Biases project, each sent once.

A W&B run belongs to one group, and that is the experiment. A record that several experiments share
is sent once for each, under the label it has there: every group is complete in itself, and
``config.record`` says which runs are the same record.

The id is <experiment>-<hash8 of the record>-<hash8 of what is sent>, the same on every machine. A
run that is there and whole is left alone; one that was cut while it was sent gets what it lacks. A
changed record has another id, since W&B neither rewrites history nor takes the id of a deleted run
again; its old run is kept, in the group "superseded".
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bpgrad.errors import BPGradError
from bpgrad.records import wandb_mirror
from bpgrad.records.files import write_text
from bpgrad.records.reading import read_steps
from bpgrad.records.run_record import Row, RunRecord
from bpgrad.reporting.runs import Run, read_run
from experiments.engine.runner import Plan, record_of

FINISH_TIMEOUT_S = 300.0
SUPERSEDED = "superseded"  # the group of runs whose record has changed since
MARKER = "published"  # in the directory of an offline run once it is whole: for which project


@dataclass(frozen=True)
class Publication:
    """All that W&B is sent of one record, as one experiment shows it.

    `record` is its name, <task>/<solver>/seed<k>-<hash8>; `epochs` has the x axis "epoch",
    `iterations` the x axis "iteration". `pictures` are WebP files by their names.
    """

    record: str
    name: str
    group: str
    job_type: str
    tags: list[str]
    config: dict[str, Any]
    epochs: list[Row]
    iterations: list[Row]
    summary: dict[str, Any]
    pictures: dict[str, bytes]

    @cached_property
    def sha256(self) -> str:
        """The sum over everything in it."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        if not self.pictures:  # the sum of what was sent before there were any
            del content["pictures"]
        text = json.dumps(content, sort_keys=True, default=lambda b: hashlib.sha256(b).hexdigest())
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def id(self) -> str:
        """Identifies experiment, record and content."""
        return f"{self.group}-{self.record.rpartition('-')[2]}-{self.sha256[:8]}"


def publications(plan: Plan) -> Iterator[Publication]:
    """The finished runs among those planned.

    Raises RecordError if a record is damaged.
    """
    for planned, cfg in plan.runs:
        record = record_of(cfg)
        run = read_run(record, planned.solver, planned.seed)
        if run.finished:
            yield _publication(plan.name, record, run)


def _publication(experiment: str, record: RunRecord, run: Run) -> Publication:
    task, solver, _ = record.name.split("/")
    start = run.meta["starts"][-1]
    tags = [f"task={task}", f"scale={run.config['scale']['name']}", f"seed={run.seed}"]
    if start["git_sha"]:
        dirty = "-dirty" if start["git_dirty"] else ""
        tags.append(f"commit={start['git_sha'][:12]}{dirty}")
    return Publication(
        record=record.name,
        name=f"{task}, {run.solver}, seed {run.seed}",
        group=experiment,
        job_type=solver,
        tags=tags,
        config={
            **run.config,
            "experiment": experiment,
            "task_name": task,
            "solver_label": run.solver,
            "record": record.name,
            "meta": run.meta,
        },
        epochs=_epochs(run),
        iterations=_iterations(run),
        summary=record.result() or {},
        pictures={path.stem: path.read_bytes() for path in run.pictures},
    )


def _epochs(run: Run) -> list[Row]:
    """A row an epoch: its metrics and clocks, and quantiles/<value>_<percent> over iterations."""
    steps = read_steps(run.directory)
    percents = [round(100 * level) for level in steps["quantile_levels"].tolist()]
    columns = steps["columns"].tolist()
    names = [f"quantiles/{name}_{percent}" for percent in percents for name in columns]
    quantiles = steps["quantiles"].reshape(-1, len(names)).tolist()
    rows = ({str(key): value for key, value in row.items()} for row in run.rows.to_dict("records"))
    return [
        row | dict(zip(names, more, strict=True)) for row, more in zip(rows, quantiles, strict=True)
    ]


def _iterations(run: Run) -> list[Row]:
    """A row an iteration, over the first epochs, as iteration/<value>."""
    columns = read_steps(run.directory)["columns"].tolist()
    series = zip(*(run.steps(name).tolist() for name in columns), strict=True)
    return [
        {"iteration": k, **{f"iteration/{c}": v for c, v in zip(columns, row, strict=True)}}
        for k, row in enumerate(series, 1)
    ]


# -- sending -------------------------------------------------------------------------------------


def publish_online(
    api: Any, found: Iterable[Publication], entity: str, project: str, folder: Path
) -> Iterator[tuple[Publication, bool]]:
    """Upload what the project lacks; each publication, and whether it was sent now.

    `api` is a ``wandb.Api``. A project that does not exist is created by its first run. wandb
    writes below `folder`, which is of no use afterwards.

    Raises BPGradError if W&B refuses or cannot be reached; what was sent stays.
    """
    found = list(found)
    groups = sorted({publication.group for publication in found})
    try:
        runs = list(api.runs(f"{entity}/{project}", filters={"group": {"$in": groups}}, lazy=False))
    except Exception as error:
        if not str(error).startswith("Could not find project"):
            raise _error(f"{entity}/{project}", error) from error
        runs = []
    whole = {run.id: run.summary.get("content_sha256") for run in runs if run.state == "finished"}
    try:
        for publication in found:
            missing = whole.get(publication.id) != publication.sha256
            if missing:
                _send("online", folder, publication, entity, project)
            for run in runs:
                if run.id != publication.id and _stem(run.id) == _stem(publication.id):
                    _retire(run)
            yield publication, missing
    finally:
        wandb_mirror.close_service()  # before its folder goes


def publish_offline(
    found: Iterable[Publication], entity: str | None, project: str, folder: Path
) -> Iterator[tuple[Publication, bool]]:
    """Write what is not there under ``folder/wandb`` for ``wandb sync``; as `publish_online`.

    Earlier directories of a record that has changed, or that are not whole, are deleted.
    """
    target = f"{entity or ''}/{project}\n"
    for publication in found:
        before = {
            path: (path / MARKER).read_text() if (path / MARKER).exists() else None
            for path in (folder / "wandb").glob(f"offline-run-*-{_stem(publication.id)}-????????")
        }
        there = any(
            path.name.endswith(publication.id) and other == target for path, other in before.items()
        )
        if not there:
            directory = _send("offline", folder.absolute(), publication, entity, project)
            write_text(directory / MARKER, target)
            for path, other in before.items():
                if other in (None, target):
                    shutil.rmtree(path)
        yield publication, not there


def _stem(run_id: str) -> str:
    """The id without what depends on the record's content."""
    return run_id.rpartition("-")[0]


def _retire(run: Any) -> None:
    """Take an older run of a record out of its group."""
    try:
        run.group = SUPERSEDED
        run.update()
    except Exception as error:
        raise _error(run.id, error) from error


def _send(
    mode: Literal["online", "offline"],
    folder: Path,
    publication: Publication,
    entity: str | None,
    project: str,
) -> Path:
    """One W&B run from start to end; the directory it was written to."""
    identity = {
        "id": publication.id,
        "entity": entity,
        "project": project,
        **{key: getattr(publication, key) for key in ("name", "group", "job_type", "tags")},
        "config": publication.config,
    }
    resume: Literal["allow"] | None = "allow" if mode == "online" else None
    try:
        wandb_mirror.prepare(folder)
        run = wandb_mirror.init(
            mode, folder, identity, resume=resume, finish_timeout=FINISH_TIMEOUT_S
        )
        directory = Path(run.dir).parent
        _define_axis(run, "epoch", publication.epochs)
        _define_axis(run, "iteration", publication.iterations, summary="none")
        # wandb passes over the steps that the server has of a run that was cut.
        rows = [*publication.epochs, *publication.iterations]
        for step, row in enumerate(rows):
            run.log(row, step=step)
        wandb_mirror.log_pictures(run, publication.pictures, len(rows))
        run.summary.update(publication.summary | {"content_sha256": publication.sha256})
        run.finish()
    except Exception as error:
        raise _error(publication.id, error) from error
    return directory


def _define_axis(run: Any, axis: str, rows: Sequence[Row], **options: Any) -> None:
    """Let one value of the rows be the x axis of the others."""
    for name in rows[0] if rows else ():
        run.define_metric(name, step_metric=None if name == axis else axis, **options)


def _error(what: str, error: Exception) -> BPGradError:
    wandb_mirror.close_service()
    return BPGradError(
        f"W&B: {what}: {wandb_mirror.reason(error)}; what was sent before stays, the same command "
        "sends the rest"
    )
