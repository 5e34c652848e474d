"""Experiments as they are declared: which runs, and under what names they are shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from bpgrad.errors import ConfigError
from bpgrad.training.signatures import check_arguments, unknown

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Solver:
    """A line of a table, a curve of a figure: its label, and the overrides that configure it.

    `tasks` limits it to some of the experiment's tasks; None means all.
    """

    label: str
    set: tuple[str, ...]
    tasks: tuple[str, ...] | None = None


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

    `paper` says what it reproduces, as "Figure 7"; None if the paper has no such thing.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    solvers: tuple[Solver, ...]
    paper: str | None = None

    def runs(self, seeds: Sequence[int] = ()) -> Iterator[PlannedRun]:
        """Every run, one seed after the other: a comparison is complete as early as possible.

        `seeds` replaces those declared.
        """
        for seed in seeds or self.seeds:
            for task in self.tasks:
                for solver in self.solvers:
                    if solver.tasks is None or task in solver.tasks:
                        overrides = (f"task={task}", *solver.set, f"seed={seed}")
                        yield PlannedRun(task, solver.label, seed, overrides)


def names() -> list[str]:
    """The experiments there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(path: Path) -> Experiment:
    """Read a declaration; its name is the file's.

    Raises ConfigError, one line, for keys and values that do not belong there. Whether the
    overrides are right shows when the runs are composed.
    """
    try:
        return _parse(path.stem, yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _parse(name: str, given: object) -> Experiment:
    if not isinstance(given, dict):
        raise ConfigError("must be a mapping with title, seeds, tasks and solvers")
    solvers = given.get("solvers")
    if not isinstance(solvers, list) or not all(isinstance(solver, dict) for solver in solvers):
        raise ConfigError("solvers: must be a list of mappings {label: ..., set: [...]}")
    for k, solver in enumerate(solvers):
        check_arguments(Solver, solver, f"solvers[{k}]")
    given = {**given, "solvers": [_tuples(Solver, solver) for solver in solvers]}
    check_arguments(Experiment, given, name, given=1)
    experiment: Experiment = _tuples(Experiment, {"name": name, **given})
    ...
