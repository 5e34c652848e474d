"""W&B workspaces as code: a saved view for each task of an experiment.

Lines are grouped by the solver as the experiment labels it ("BPGrad, μ = 0" is not "BPGrad,
μ = 0.9"): the mean over seeds, with their range. A view shows one task of one experiment, since an
objective of MNIST and one of CIFAR-10 have no mean.

Needs wandb-workspaces (the extra "dashboards").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2.interface import LinePlot
from wandb_workspaces.workspaces import internal

from bpgrad.errors import BPGradError
from bpgrad.records.wandb_mirror import reason
from bpgrad.tasks.task import Task
from bpgrad.training.config import task_class
from experiments.engine.runner import Plan

MOST_LINES = 100


def workspaces(plan: Plan, entity: str, project: str) -> Iterator[ws.Workspace]:
    """The view of each task of an experiment, checked; nothing is saved.

    Raises BPGradError if the library's schema loses anything of it.
    """
    for task, cfg in {run.task: cfg for run, cfg in plan.runs}.items():
        view = ws.Workspace(
            entity=entity,
            project=project,
            name=f"{plan.name}, {task}",
            sections=_sections(task_class(cfg)),
            settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=MOST_LINES),
            runset_settings=ws.RunsetSettings(
                filters=ws.And(ws.Metric("Group") == plan.name, ws.Config("task_name") == task),
                groupby=[ws.Config("solver_label")],
                order=[ws.Ordering(ws.Metric("Name"))],
            ),
        )
        # A view is found again by this name, which the library would otherwise choose at random.
        name = hashlib.sha256(f"{entity}/{project}/{plan.name}/{task}".encode()).hexdigest()[:11]
        view._internal_name = f"nw-{name}-v"
        check(view)
        yield view


def _sections(task: type[Task]) -> list[ws.Section]:
    panels: dict[str, list[Any]] = {
        "Training": [_plot(f"train_{name}") for name in task.train_metrics],
        "Validation": [_plot(f"val_{name}") for name in task.metrics],
        "Step size η_t": [
            *(_plot(f"step_size_{part}") for part in ("min", "median", "max")),
            _plot("iteration/step_size", x="iteration"),
        ],
        "Speed": [_plot("images_per_second")],
    }
    return [ws.Section(name=name, panels=plots, is_open=True) for name, plots in panels.items()]


def _plot(metric: str, x: str = "epoch") -> LinePlot:
    return LinePlot(
        title=metric,
        x=x,
        y=[metric],
        log_y="objective" in metric or "step_size" in metric,
        title_x=x,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=MOST_LINES,
        smoothing_type="none",
    )


def check(view: ws.Workspace) -> dict[str, Any]:
    """Validate a view against the library's schema, offline; its specification.

    The specification is read back by the schema and written again: what the schema does not know
    would be lost on the way.

    Raises BPGradError if the two differ.
    """
    model = view._to_model()
    text = model.spec.model_dump_json(by_alias=True, exclude_none=True)
    read = internal.WorkspaceViewspec.model_validate_json(text)
    again = ws.Workspace._from_model(model.model_copy(update={"spec": read}))._to_model()
    spec: dict[str, Any] = model.spec.model_dump(by_alias=True, exclude_none=True)
    if again.spec.model_dump(by_alias=True, exclude_none=True) != spec:
        raise BPGradError(
            f"workspace {view.name}: wandb-workspaces reads it otherwise than written"
        )
    return spec


def save(view: ws.Workspace) -> str:
    """Save a view in its project, in place of its former state; its address.

    Raises BPGradError if W&B refuses, as for a project that does not exist.
    """
    try:
        former = internal.View.from_name(view.entity, view.project, view._internal_name)
        view._internal_id = former.id
    except ValueError as error:
        if "not found in project" not in str(error):
            raise BPGradError(f"W&B: workspace {view.name}: {reason(error)}") from error
    except Exception as error:
        raise BPGradError(f"W&B: workspace {view.name}: {reason(error)}") from error
    try:
        view.save()
        return view.url
    except Exception as error:
        raise BPGradError(f"W&B: workspace {view.name}: {reason(error)}") from error
