"""Tuning at an equal budget: the same number of configurations for every solver that is tuned.

N configurations a solver and task: the one that is given first, then N - 1 quasi-random ones
(Halton) of its ranges. Each is trained for a fifth of the epochs, on nine tenths of the training
examples, and judged by the others: by the metric that the task's table shows, at the last epoch,
then by the objective. The test set is not looked at. The best one is then run as any other solver:
at full length, on all training examples. A schedule of the learning rate stays as it is.
"""

from __future__ import annotations

import csv
import inspect
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from scipy.stats import qmc

from bpgrad.errors import BPGradError, ConfigError
from bpgrad.reporting.runs import read_run
from bpgrad.training.cli import one_line
from bpgrad.training.config import CONFIG_DIR, Config, task_class
from bpgrad.training.config import load as compose
from bpgrad.training.signatures import unknown
from experiments.engine.declaration import Experiment, PlannedRun, Solver
from experiments.engine.own_solver import OwnSolver
from experiments.engine.runner import Plan, record_of

HOLDOUT = 0.1  # of the training examples
SHARE = 5  # a trial has one epoch of so many
DIGITS = 3  # significant ones of a quasi-random value
FORMS = "{log: [low, high]}, {linear: [low, high]} or a list of choices"

Ranges = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """A configuration of a solver that is to be judged on held-out examples."""

    task: str
    solver: Solver
    number: int  # from 1; the first is as given
    settings: tuple[str, ...]  # overrides, of all but the first
    run: PlannedRun
    cfg: Config


@dataclass(frozen=True)
class Score:
    """What a trial reached, by metric: None if it diverged, or is not `done`."""

    trial: Trial
    values: Mapping[str, float] | None
    done: bool

    @property
    def key(self) -> tuple[str, str]:
        """Task and label: what the best is chosen for."""
        return self.trial.task, self.trial.solver.label

    @property
    def rank(self) -> tuple[float, ...]:
        """Smaller is better; a value that is not finite is the worst."""
        metrics = task_class(self.trial.cfg).metrics
        found = []
        for name in (list(metrics)[1], "objective"):
            value = math.nan if self.values is None else self.values[name]
            signed = -value if metrics[name].higher_is_better else value
            found.append(signed if math.isfinite(signed) else math.inf)
        return tuple(found)


def suite_ranges() -> dict[str, Ranges]:
    """The ranges of the suite's own solvers, by name."""
    found = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "tuning.yaml"))
    assert isinstance(found, dict)
    return {str(name): ranges for name, ranges in found.items()}


def configurations(ranges: Ranges, n: int) -> list[dict[str, Any]]:
    """The n - 1 settings beside the given one, evenly spread; the same ones every time.

    Raises ConfigError for a range that is not of one of the `FORMS`.
    """
    parts = [(key, _parsed(key, spec)) for key, spec in ranges.items()]
    # Shifted as a whole (Cranley and Patterson), for Halton's points begin in a corner.
    shift = np.random.RandomState(0).random_sample(len(parts))
    points = (qmc.Halton(len(parts), scramble=False).random(n - 1) + shift) % 1
    return [
        {key: _at(kind, values, u) for (key, (kind, values)), u in zip(parts, point, strict=True)}
        for point in points
    ]


def _parsed(key: str, spec: Any) -> tuple[str, list[Any]]:
    if isinstance(spec, list) and spec:
        return "choice", spec
    kind, bounds = next(iter(spec.items())) if isinstance(spec, Mapping) and spec else ("", None)
    if kind in ("log", "linear") and len(spec) == 1 and isinstance(bounds, list):
        numbers = [b for b in bounds if isinstance(b, int | float) and not isinstance(b, bool)]
        lowest = 0 if kind == "log" else -math.inf
        if len(numbers) == len(bounds) == 2 and lowest < numbers[0] < numbers[1] < math.inf:
            return kind, numbers
    raise ConfigError(
        f"tune: {key}: {spec}: must be {FORMS}, with low below high (0 < low for log)"
    )


def _at(kind: str, values: list[Any], u: float) -> Any:
    """The value at `u` in [0, 1)."""
    if kind == "choice":
        return values[int(u * len(values))]
    low, high = values
    value = low * (high / low) ** u if kind == "log" else low + (high - low) * u
    return float(f"{value:.{DIGITS}g}")


def trials(
    experiment: Experiment,
    plan: Plan,
    ranges: Mapping[str, Ranges],
    n: int,
    epochs: int | None,
    seed: int,
    overrides: Sequence[str],
    own: Mapping[str, OwnSolver],
) -> list[Trial]:
    """All trials of the solvers that `ranges` has, by label, composed and checked.

    `epochs` of a trial: None is a fifth of the task's in `plan`. Raises ConfigError, of one of the
    solvers added (`own`, by label) with its file.
    """
    found: list[Trial] = []
    for task in experiment.tasks:
        cfg = next(cfg for run, cfg in plan.runs if run.task == task)
        if "holdout" not in inspect.signature(task_class(cfg)).parameters:
            raise ConfigError(
                f"--tune: the task {task} has no option holdout, and the test set is not for tuning"
            )
        length = epochs or math.ceil(cfg.epochs / SHARE)
        for solver in experiment.solvers:
            if solver.label not in ranges or task not in (solver.tasks or (task,)):
                continue
            short = (f"epochs={length}", f"task.holdout={HOLDOUT}")
            common = (f"scale={cfg.scale.name}", *overrides, *short)
            try:
                spread = [{}, *configurations(ranges[solver.label], n)]
                found += _trials(experiment, solver, task, spread, seed, common)
            except ConfigError as error:
                if solver.label not in own:
                    raise
                raise ConfigError(f"{own[solver.label].path}: {error}") from error
    return found


def _trials(
    experiment: Experiment,
    solver: Solver,
    task: str,
    spread: Sequence[Mapping[str, Any]],
    seed: int,
    common: Sequence[str],
) -> Iterator[Trial]:
    for k, values in enumerate(spread, 1):
        settings = tuple(f"++solver.{key}={json.dumps(value)}" for key, value in values.items())
        label = f"{solver.label}, trial {k} of {len(spread)}"
        given = (f"task={task}", *experiment.set, *solver.set, *settings, f"seed={seed}")
        run = PlannedRun(task, label, seed, given)
        yield Trial(task, solver, k, settings, run, _compose(run, [*given, *common]))


def _compose(run: PlannedRun, overrides: Sequence[str]) -> Config:
    try:
        return compose(overrides)
    except (BPGradError, HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{run}: {one_line(error)}") from error


def scores(found: Sequence[Trial]) -> list[Score]:
    """What is recorded of the trials."""
    result = []
    for trial in found:
        run = read_run(record_of(trial.cfg), trial.run.solver, trial.run.seed)
        values = None
        if run.finished:
            last = run.rows.iloc[-1]
            values = {name: float(last[f"val_{name}"]) for name in task_class(trial.cfg).metrics}
        result.append(Score(trial, values, run.finished or "diverged" in run.meta))
    return result


def best(found: Sequence[Score]) -> dict[tuple[str, str], Score]:
    """The best score by task and label, where all trials are done and not all have diverged."""
    waiting = {score.key for score in found if not score.done}
    chosen: dict[tuple[str, str], Score] = {}
    for score in found:
        if score.values is None or score.key in waiting:
            continue
        if score.key not in chosen or score.rank < chosen[score.key].rank:
            chosen[score.key] = score
    return chosen


def with_tuned(experiment: Experiment, found: Sequence[Score], n: int) -> Experiment:
    """The experiment with a tuned solver after each one that is as given."""
    chosen = best(found).values()
    solvers: list[Solver] = []
    for solver in experiment.solvers:
        solvers.append(solver)
        for score in chosen:
            if score.trial.solver.label == solver.label:
                label = f"{solver.label} (tuned, {n} trials)"
                settings = (*solver.set, *score.trial.settings)
                solvers.append(Solver(label, settings, (score.trial.task,)))
    return replace(experiment, solvers=tuple(solvers))


def protocol(found: Sequence[Trial], n: int) -> str:
    """How the tuned solvers were tuned, in a paragraph."""
    lengths = {trial.task: trial.cfg.epochs for trial in found}
    epochs = ", ".join(f"{length} on {task}" for task, length in lengths.items())
    return (
        f"Tuned: the best of {n} configurations, of which the first is the one given and the "
        f"others are quasi-random. Each was trained with seed {found[0].run.seed} on "
        f"{1 - HOLDOUT:.0%} of the training examples (epochs: {epochs}) and judged at the last "
        f"epoch by the other {HOLDOUT:.0%}, never by the test set. The best is then trained as "
        "all others are."
    )


def lines(found: Sequence[Score]) -> Iterator[str]:
    """A line for each solver and task: what was chosen, and what that gained on the holdout."""
    chosen = best(found)
    for key in dict.fromkeys(score.key for score in found):
        trials_of = [score for score in found if score.key == key]
        task, label = key
        if key not in chosen:
            done = sum(score.done for score in trials_of)
            state = "all diverged" if done == len(trials_of) else f"{done} done"
            yield f"{task}  {label}: not tuned, of {len(trials_of)} trials {state}"
            continue
        score, first = chosen[key], trials_of[0]
        shown = list(task_class(score.trial.cfg).metrics)[1]
        assert score.values is not None
        before = "diverged" if first.values is None else f"{first.values[shown]:.4g}"
        yield (
            f"{task}  {label}: trial {score.trial.number} of {len(trials_of)}, "
            f"{_settings(score.trial)}; held-out {shown} {score.values[shown]:.4g}, "
            f"as given {before}"
        )


def as_csv(found: Sequence[Score]) -> str:
    """All trials: a row each, with its run; `chosen` is 1 for the best of its solver and task."""
    chosen = {id(score) for score in best(found).values()}
    rows = []
    for score in found:
        trial = score.trial
        rows.append(
            {
                "task": trial.task,
                "solver": trial.solver.label,
                "trial": trial.number,
                "settings": _settings(trial),
                "epochs": trial.cfg.epochs,
                **{f"holdout_{name}": f"{v:.6g}" for name, v in (score.values or {}).items()},
                "chosen": int(id(score) in chosen),
                "run": record_of(trial.cfg).name,
            }
        )
    columns = dict.fromkeys(key for row in rows for key in row)
    order = [key for key in columns if key not in ("chosen", "run")] + ["chosen", "run"]
    text = io.StringIO()
    writer = csv.DictWriter(text, order, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _settings(trial: Trial) -> str:
    return " ".join(s.removeprefix("++solver.") for s in trial.settings) or "as given"


def ranges_of(
    experiment: Experiment, own: Mapping[str, OwnSolver], *, everyone: bool
) -> dict[str, Ranges]:
    """What is tuned, by label: the solvers added (`own`, by label), and `everyone`'s.

    Raises ConfigError where there is no range.
    """
    suite = suite_ranges()
    found: dict[str, Ranges] = {}
    for solver in experiment.solvers:
        if solver.label in own:
            if not own[solver.label].tune:
                raise ConfigError(
                    f"--tune: {own[solver.label].path}: {solver.label} has no ranges; add tune: "
                    f"{{lr: {FORMS}}}"
                )
            found[solver.label] = own[solver.label].tune
        elif everyone:
            name = next(s for s in solver.set if s.startswith("solver=")).partition("=")[2]
            if name not in suite:
                raise ConfigError(f"--tune-all: configs/tuning.yaml: {unknown(name, list(suite))}")
            found[solver.label] = suite[name]
    return found
