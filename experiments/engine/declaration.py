"""Experiments as they are declared: which runs, and under what names they are shown."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bpgrad.errors import ConfigError
from bpgrad.training.signatures import check_arguments, unknown

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # of libyaml: ten times as fast
REDUCED = "-reduced"  # ends the name of an experiment at the reduced scale
SHOWS = (
    *("epochs", "table", "objective", "step_size", "grad_norm", "certificate", "variants"),
    "sweep",
)
DECLARED = ("task", "solver", "seed", "scale")  # what no override of an experiment may set


@dataclass(frozen=True)
class Solver:
    """A line of a table, a curve of a figure: its label, and the overrides that configure it.

    `tasks` limits it to some of the experiment's tasks; None means all. `seen` is whether it takes
    part in the experiment's seen seeds.
    """

    label: str
    set: tuple[str, ...]
    tasks: tuple[str, ...] | None = None
    seen: bool = True


@dataclass(frozen=True)
class PlannedRun:
    """One run, and its overrides but for the scale and those of the command line."""

    task: str
    solver: str  # the label
    seed: int
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.task}  {self.solver}  seed {self.seed}"


@dataclass(frozen=True)
class Experiment:
    """A table or figure: solvers × tasks × seeds.

    `paper` says what it reproduces, as "Figure 7"; None if the paper has no such thing. `set` are
    overrides for all runs; those of a solver come after them. `shows` is what the figure is of:

    epochs          training objective and validation metric over epochs
    table           no figure: another experiment shows the curves of its runs
    objective, step_size, grad_norm
                    a value that is recorded an iteration, over the first epochs
    certificate     ‖g‖/L over epochs
    variants        the last epoch of each solver, which are variants of the first
    sweep           the last epoch over the settings of labels "solver, name = value"

    `seeds` are the planned ones, by which the registered rules judge (docs/claims.md); `seen` are
    those that had been looked at before these were registered, judged by the first rules.
    `report` is whether the report shows it. `needs` says what the suite still lacks to run it, and
    `takes` what data and machine it takes beside the suite; None if nothing.

    `scale` is that of its runs; the name of one at the reduced scale ends in "-reduced". Its table
    shows means over the last `averaged` epochs, and below it `note`: what a reader has to know.

    The right-hand curves of "epochs" are of the metric `curve` instead of the task's second one;
    of these the fluctuation over the last `fluctuation` epochs is told. `claims` are shown with it
    beside those that look at its runs by its name.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    solvers: tuple[Solver, ...]
    paper: str | None = None
    seen: tuple[int, ...] = ()
    set: tuple[str, ...] = ()
    shows: str = "epochs"
    report: bool = True
    needs: str | None = None
    takes: str | None = None
    scale: str = "paper"
    averaged: int = 1
    note: str = ""
    curve: str = ""
    fluctuation: int = 0
    claims: tuple[str, ...] = ()

    def runs(self, seeds: Sequence[int] = ()) -> Iterator[PlannedRun]:
        """Every run, one seed after the other: a comparison is complete as early as possible.

        `seeds` replaces those declared.
        """
        for seed in seeds or self.seen + self.seeds:
            for task in self.tasks:
                for solver in self.solvers:
                    if not solver.seen and not seeds and seed in self.seen:
                        continue
                    if solver.tasks is None or task in solver.tasks:
                        overrides = (f"task={task}", *self.set, *solver.set, f"seed={seed}")
                        yield PlannedRun(task, solver.label, seed, overrides)


@dataclass(frozen=True)
class Study:
    """A computation other than a comparison of training runs: the module `study`, by its name.

    `paper`, `seeds` and `seen` as in an experiment; no seeds if the study has none.
    """

    name: str
    title: str
    study: str
    paper: str | None = None
    seeds: tuple[int, ...] = ()
    seen: tuple[int, ...] = ()


def at_scale(folder: Path, name: str, scale: str | None) -> tuple["Experiment | Study", str]:
    """A declaration, and the scale that is asked for; None is its own.

    One at the reduced scale that has a file of its own is that.
    """
    if scale == "reduced" and (folder / f"{name}{REDUCED}.yaml").is_file():
        name += REDUCED
    declared = load(folder / f"{name}.yaml")
    own = declared.scale if isinstance(declared, Experiment) else "paper"
    return declared, scale or own


def names(folder: Path) -> list[str]:
    """The experiments and studies declared in a folder; figure2 comes before figure10."""
    return sorted((path.stem for path in folder.glob("*.yaml")), key=_in_natural_order)


def _in_natural_order(name: str) -> list[tuple[str, int]]:
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D+)(\d*)", name)]


def load_all(folder: Path) -> list[Experiment | Study]:
    """All declarations of a folder, in the order of `names`."""
    return [load(folder / f"{name}.yaml") for name in names(folder)]


def load(path: Path) -> Experiment | Study:
    """Read a declaration; its name is the file's. One with the key `study` is a study.

    Raises ConfigError, one line, for keys and values that do not belong there. Whether the
    overrides are right shows when the runs are composed.
    """
    try:
        return _parse(path.stem, yaml.load(path.read_text(encoding="utf-8"), _Loader))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _parse(name: str, given: Any) -> Experiment | Study:
    if not isinstance(given, dict):
        raise ConfigError(
            "must be a mapping with the keys title, seeds, tasks and solvers, or title and study"
        )
    if "study" in given:
        given = _with_tuples(given)
        check_arguments(Study, given, name, given=1)
        study = Study(name, **given)
        _refuse_repeated("seeds", study.seen + study.seeds)
        return study
    entries = given.get("solvers")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError("solvers: must be a list of {label: ..., set: [solver=..., ...]}")
    for k, entry in enumerate(entries):
        check_arguments(Solver, entry, f"solvers[{k}]")
    solvers = tuple(Solver(**_with_tuples(entry)) for entry in entries)
    given = _with_tuples(given) | {"solvers": solvers}
    check_arguments(Experiment, given, name, given=1)
    experiment = Experiment(name, **given)
    _check_values(experiment)
    return experiment


def _with_tuples(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in node.items()}


def _check_values(experiment: Experiment) -> None:
    for key in ("seeds", "tasks", "solvers"):
        if not getattr(experiment, key):
            raise ConfigError(f"{key}: at least one is needed")
    labels = tuple(solver.label for solver in experiment.solvers)
    for key, values in (
        ("seeds", experiment.seen + experiment.seeds),
        ("tasks", experiment.tasks),
        ("label", labels),
    ):
        _refuse_repeated(key, values)
    if experiment.scale not in ("paper", "reduced"):
        raise ConfigError(f"scale: {experiment.scale}: must be paper or reduced")
    if (experiment.scale == "reduced") != experiment.name.endswith(REDUCED):
        raise ConfigError(f"scale: {experiment.scale}: goes with names that end in {REDUCED} alone")
    if experiment.averaged < 1:
        raise ConfigError(f"averaged: {experiment.averaged}: must be at least 1")
    if experiment.fluctuation != 0 and experiment.fluctuation < 2:
        raise ConfigError(f"fluctuation: {experiment.fluctuation}: must be at least 2 epochs, or 0")
    if experiment.shows not in SHOWS:
        raise ConfigError(unknown(f"shows: {experiment.shows}", SHOWS))
    refuse_overrides(experiment.set, DECLARED, "set:")
    for solver in experiment.solvers:
        refuse_overrides(solver.set, ("task", "seed", "scale"), f"{solver.label}: set:")
        if sum(override.startswith("solver=") for override in solver.set) != 1:
            raise ConfigError(f"{solver.label}: set: must name one solver, as in [solver=bpgrad]")
        if solver.tasks == ():
            raise ConfigError(f"{solver.label}: tasks: at least one is needed, or no such key")
        for task in solver.tasks or ():
            if task not in experiment.tasks:
                raise ConfigError(unknown(f"task {task} of {solver.label}", experiment.tasks))


def _refuse_repeated(key: str, values: Sequence[object]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"{key}: {value} occurs twice")


def refuse_overrides(overrides: Sequence[str], keys: Sequence[str], where: str) -> None:
    """Raise ConfigError for overrides of keys that are set in another way."""
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key in keys:
            raise ConfigError(
                f"{where} {override}: the experiment sets {key} itself (seeds and scale are "
                "options, --seeds and --scale)"
            )
