"""An experiment with solvers of one's own beside its own ones, and with tuned ones.

Its table and figure have a name of their own (figure7-with-nadam), and beside them lie the list of
its runs (-runs.csv) and of all trials (-tuning.csv, .md).
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bpgrad.errors import BPGradError, ConfigError
from bpgrad.records.files import write_text
from bpgrad.training import lookup
from bpgrad.training.config import solver_spec, task_class
from experiments.engine import forecast, own_solver, runner, tuning
from experiments.engine.declaration import Experiment
from experiments.engine.own_solver import OwnSolver
from experiments.engine.runner import Plan


@dataclass(frozen=True)
class Tuning:
    """How many configurations a solver gets, of whom, and for how long (None: a fifth)."""

    trials: int
    everyone: bool = False
    epochs: int | None = None


def reproduce(
    experiment: Experiment,
    files: Sequence[Path],
    tune: Tuning | None,
    paper_values: Path,
    *,
    seeds: Sequence[int] = (),
    scale: str | None = None,
    overrides: Sequence[str] = (),
    train: bool = True,
    jobs: int = 1,
    dry_run: bool = False,
) -> None:
    """Do what is missing of the experiment with the solvers in `files`, and show all of it.

    With `tune`, the solvers added (or every one) are tuned first. With `dry_run`, only say what
    would be done, before the tuned settings are known. Raises ConfigError before
    anything is trained, BPGradError at the end if a run failed.
    """
    if tune is not None and not (files or tune.everyone):
        raise ConfigError("--tune: of which solvers? name yours with --add, or add --tune-all")
    own = [own_solver.load(path) for path in files]
    plan = runner.prepare(experiment, seeds, scale, overrides)
    if own:
        joined = own_solver.joined(experiment, own)
        for solver in own:
            _try_out(solver, replace(experiment, solvers=(solver.entry,)), scale, overrides)
        experiment, plan = joined, runner.prepare(joined, seeds, scale, overrides)
    added = {solver.label: solver for solver in own}
    failed = 0
    if dry_run and tune is None:
        print("\n".join(forecast.lines(plan.name, plan.runs, jobs)))
        return
    scores: list[tuning.Score] = []
    if tune is not None:
        ranges = tuning.ranges_of(experiment, added, everyone=tune.everyone)
        seed = (*seeds, *experiment.seeds)[0]
        trials = [
            replace(trial, cfg=lookup.here_or_in_suite(trial.cfg))
            for trial in tuning.trials(
                *(experiment, plan, ranges, tune.trials, tune.epochs, seed, overrides, added)
            )
        ]
        trial_runs = tuple((trial.run, trial.cfg) for trial in trials)
        if dry_run:
            print("\n".join(forecast.lines(f"{plan.name}, tuning", trial_runs, jobs)))
            print("\n".join(forecast.lines(f"{plan.name}, before tuning", plan.runs, jobs)))
            return
        if train:
            runner.execute(replace(plan, runs=trial_runs), jobs)
        scores = tuning.scores(trials)
        failed = sum(not score.done for score in scores) if train else 0
        print("\n".join(["", *tuning.lines(scores), ""]), flush=True)
        experiment = replace(
            tuning.with_tuned(experiment, scores, tune.trials), name=f"{experiment.name}-tuned"
        )
        plan = runner.prepare(experiment, seeds, scale, overrides)
    failed += runner.execute(plan, jobs) if train else 0
    runner.report(plan, paper_values)
    _write(plan, scores, tune)
    if failed:
        raise BPGradError(
            f"{failed} of {len(scores) + len(plan.runs)} runs failed; once that is mended, the "
            "same command does them again"
        )


def _try_out(
    solver: OwnSolver, alone: Experiment, scale: str | None, overrides: Sequence[str]
) -> None:
    """Compose its runs and try a few steps; raises ConfigError that names its file."""
    try:
        plan = runner.prepare(alone, scale=scale, overrides=overrides)
        for cfg in {run.task: cfg for run, cfg in plan.runs}.values():
            own_solver.try_out(solver_spec(cfg), task_class(cfg))
    except ConfigError as error:
        option = shlex.join(["--add", str(solver.path)])
        raise ConfigError(
            f"{solver.path}: {error}; the others are compared without {option}"
        ) from error


def _write(plan: Plan, scores: Sequence[tuning.Score], tune: Tuning | None) -> None:
    """Write the list of the runs, and the trials."""
    tables = plan.folder / "tables"
    path = tables / f"{plan.name}-runs.csv"
    write_text(path, _runs(plan))
    print(f"runs    {path}")
    if tune is None:
        return
    path = tables / f"{plan.name}-tuning.md"
    write_text(path.with_suffix(".csv"), tuning.as_csv(scores))
    protocol = tuning.protocol([score.trial for score in scores], tune.trials)
    lines = [f"# {plan.title}", "", protocol, "", *(f"- {x}" for x in tuning.lines(scores))]
    write_text(path, "\n".join(lines) + "\n")
    print(f"trials  {path}, .csv")
    if not tune.everyone:
        print(
            "The others have the settings they were given: --tune-all gives each of them "
            f"{tune.trials} trials too.",
            flush=True,
        )


def _runs(plan: Plan) -> str:
    """Which run each solver of the table has; `python -m experiments explain` reads it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "solver", "seed", "run"])
    for run, cfg in plan.runs:
        writer.writerow([run.task, run.solver, run.seed, runner.record_of(cfg).name])
    return text.getvalue()
