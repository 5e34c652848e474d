"""Where a number of a table comes from: computed again from the raw rows, and the runs behind it.

The arithmetic here is the standard library's, on metrics.csv and timing.csv as they lie on the
disk; it shares none with `bpgrad.reporting`, which made the table.
"""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpgrad.errors import BPGradError, ConfigError, RecordError
from bpgrad.training import lookup
from bpgrad.training.config import Config
from bpgrad.training.signatures import unknown
from experiments.engine import declaration
from experiments.engine.declaration import Study

DIGITS = 6  # significant ones, of the tables' CSV
TIMES = ("train_seconds", "images_per_second")
# The heads of the columns in the paper's tables, where they are not those of the records.
PAPER_NAMES = {
    "training": "train_top1_error",
    "validation": "val_top1_error",
    "aero": "val_ap_aeroplane",
    "bike": "val_ap_bicycle",
    "table": "val_ap_diningtable",
    "mbike": "val_ap_motorbike",
    "persn": "val_ap_person",
    "plant": "val_ap_pottedplant",
    "tv": "val_ap_tvmonitor",
}


class Mismatch(BPGradError):
    """A number of a table is not what its runs give."""

    exit_code = 1


@dataclass(frozen=True)
class PlannedRun:
    """One run of a table, done or not; the table shows the mean over its last epochs."""

    task: str
    solver: str  # the label
    directory: Path
    averaged: int = 1


@dataclass(frozen=True)
class RunValue:
    """A finished run, and what it adds to the number that is explained."""

    directory: Path
    epochs: int
    value: float

    @property
    def meta(self) -> dict[str, Any]:
        """The record's meta.json."""
        path = self.directory / "meta.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecordError(f"{path}: cannot be read ({error})") from error
        return found


def planned(
    folder: Path,
    name: str,
    seeds: Sequence[int] = (),
    scale: str | None = None,
    overrides: Sequence[str] = (),
) -> tuple[Path, list[PlannedRun]]:
    """The table's CSV file, and the runs that it is made of.

    `name` is an experiment declared in `folder`, or a table with a solver of one's own
    (figure7-with-nadam), whose runs are listed beside it. Raises ConfigError if it is neither.
    """
    declared_there = declaration.names(folder)
    if name not in declared_there:
        return _listed(name, declared_there, overrides)
    from experiments.engine import runner  # Hydra and torch start only now

    declared, scale = declaration.at_scale(folder, name, scale)
    if isinstance(declared, Study):
        raise ConfigError(
            f"{name} is a study: its numbers are computed from results/studies/{name}/, not from "
            f"training runs; `python -m experiments {name} --show` computes them again"
        )
    plan = runner.prepare(declared, seeds, scale, overrides)
    table = _here_or_in_suite(plan.folder / "tables" / f"{plan.name}.csv")
    runs = [
        PlannedRun(r.task, r.solver, runner.record_of(cfg).directory, plan.declared.averaged)
        for r, cfg in plan.runs
    ]
    return table, runs


def _here_or_in_suite(table: Path) -> Path:
    ours = lookup.SUITE_RECORDS.parent / "tables" / table.name
    return ours if ours.is_file() and not table.is_file() else table


SMOKE = "smoke"  # beside the folder of records: where those of scale=smoke lie


def _listed(
    name: str, declared: Sequence[str], overrides: Sequence[str]
) -> tuple[Path, list[PlannedRun]]:
    roots = [o.removeprefix("results_root=") for o in overrides if o.startswith("results_root=")]
    root = Path(roots[-1] if roots else Config.results_root)
    folder = root.parent / "tables"
    path = folder / f"{name}-runs.csv"
    if not path.is_file():
        own = sorted(found.name.removesuffix("-runs.csv") for found in folder.glob("*-runs.csv"))
        raise ConfigError(unknown(name, [*declared, *own]))

    runs = []
    for row in _read(path):
        places = (root, root.with_name(SMOKE), lookup.SUITE_RECORDS)
        found = (place / row["run"] for place in places if (place / row["run"]).exists())
        directory = next(found, root / row["run"])
        runs.append(PlannedRun(row["task"], row["solver"], directory))
    return folder / f"{name}.csv", runs


def explain(table: Path, runs: Sequence[PlannedRun], solver: str, metric: str, task: str) -> None:
    """Print the number of a solver and metric, and what it was made of.

    `task` may be empty: all tasks then. Raises Mismatch if the table has another number,
    BPGradError if no run has finished, ConfigError for a solver, metric or task that is not there.
    """
    tasks = list(dict.fromkeys(run.task for run in runs))
    if task and task not in tasks:
        raise ConfigError(unknown(task, tasks))
    label = _label(solver, list(dict.fromkeys(run.solver for run in runs)))
    chosen = [run for run in runs if run.solver == label and task in ("", run.task)]
    finished = [run for run in chosen if (run.directory / "result.json").is_file()]
    if not chosen:
        raise ConfigError(f"{label} is not among the solvers of {task}")
    if not finished:
        raise BPGradError(
            f"{table.stem}: no run of {label} has finished, so there is no number to explain; "
            f"its first would be {chosen[0].directory}"
        )
    if not table.is_file():
        raise BPGradError(
            f"{table} is not there; --show writes it, with the same --scale and --set"
        )
    wrong = []
    for name in dict.fromkeys(run.task for run in finished):
        row = _row(table, name, label)
        column = _column(metric, row)
        its = [run for run in finished if run.task == name]
        missing = sum(run.task == name for run in chosen) - len(its)
        base = column.removesuffix("_std")
        values = [_value(run.directory, base, run.averaged) for run in its]
        number = _combined(column, values)
        cell = row[column]
        equal = agrees(cell, number) and row["seeds"] == str(len(values))
        if not equal:
            wrong.append(
                f"{table}: {name}, {label}, {column} is {cell or 'empty'} over {row['seeds']} "
                f"seeds, but the records give {_text(number) or 'nothing'} over {len(values)}"
            )
        print(f"{table.stem}  {name}  {label}  {column}\n")
        how = _how(column, len(values), its[0].averaged)
        print(f"  from the records  {_text(number) or 'none'}  ({how})")
        verdict = f"equal to {DIGITS} significant digits" if equal else "NOT EQUAL"
        print(f"  in the table      {cell or 'none'}  ({table}: {verdict})")
        if paper := row.get(f"{column}_paper"):
            print(f"  in the paper      {paper}")
        if missing:
            print(f"  {missing} of the planned runs not finished, and not in the number")
        for value in values:
            print("\n" + "\n".join(_describe(value)))
        print()
    if wrong:
        raise Mismatch("; ".join(wrong))


def agrees(cell: str, number: float) -> bool:
    """Whether a cell of the CSV is this number, rounded; an empty cell is NaN.

    The last bit of a mean depends on the order of its sum, and may decide how it is rounded.
    """
    near = (number, number * (1 + 1e-14), number * (1 - 1e-14))
    return cell in map(_text, near)


def _text(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.{DIGITS}g}"


def _label(wanted: str, labels: list[str]) -> str:
    """The label that is meant: case, punctuation and μ or mu do not matter, a part is enough."""
    words = _words(wanted)
    found = [label for label in labels if _words(label) == words]
    found = found or [label for label in labels if words and words in _words(label)]
    if len(found) > 1:
        raise ConfigError(f"{wanted}: could be any of {'; '.join(found)}; write more of it")
    if not found:
        raise ConfigError(unknown(wanted, labels))
    return found[0]


def _column(wanted: str, row: dict[str, str]) -> str:
    """The column that is meant; without train or val before it that of the validation set."""
    if wanted.endswith("_paper"):
        raise ConfigError(f"{wanted}: printed by the paper (experiments/paper_values.csv)")
    known = ("task", "solver", "seeds")
    columns = [name for name in row if name not in known and not name.endswith("_paper")]
    # What tables call test is val_ in the records.
    name = PAPER_NAMES.get(wanted, re.sub(r"^test\b", "val", wanted))
    for form in ("{}", "val_{}", "val_ap_{}", "train_{}"):
        for column in columns:
            if _key(column) == _key(form.format(name)):
                return column
    raise ConfigError(unknown(wanted, columns))


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9.]+", text.lower().replace("μ", "mu")))


def _key(text: str) -> str:
    return _words(text).replace(" ", "")


def _row(table: Path, task: str, solver: str) -> dict[str, str]:
    for row in _read(table):
        if (row["task"], row["solver"]) == (task, solver):
            return row
    raise Mismatch(
        f"{table} has no row of {solver} on {task}, whose runs have finished; "
        "`make report` rebuilds the tables"
    )


def _value(directory: Path, column: str, averaged: int = 1) -> RunValue:
    """What a run adds: the mean of the last rows, or for the times what all rows give."""
    if column not in TIMES:
        rows = _read(directory / "metrics.csv")
        last = [float(row.get(column) or "nan") for row in rows[-averaged:]]
        return RunValue(directory, len(rows), math.fsum(last) / len(last))
    rows = _read(directory / "timing.csv")
    seconds = math.fsum(float(row["train_seconds"]) for row in rows)
    if column == "train_seconds":
        return RunValue(directory, len(rows), seconds)
    images = math.fsum(float(r["images_per_second"]) * float(r["train_seconds"]) for r in rows)
    return RunValue(directory, len(rows), images / seconds)


def _combined(column: str, values: Sequence[RunValue]) -> float:
    numbers = [value.value for value in values]
    if column.endswith("_std"):
        return statistics.stdev(numbers) if len(numbers) > 1 else math.nan
    if column in TIMES:  # of the run that took the fewest seconds; its rate need not be the highest
        return min(values, key=lambda run: _value(run.directory, TIMES[0]).value).value
    return math.fsum(numbers) / len(numbers)


def _how(column: str, n: int, averaged: int = 1) -> str:
    what = "standard deviation, n - 1," if column.endswith("_std") else "mean"
    if column in TIMES:
        what = "fastest"
    base = column.removesuffix("_std")
    if base == "train_seconds":
        of = "sum of train_seconds of timing.csv"
    elif base == "images_per_second":
        of = "images a second of timing.csv, weighted by time"
    else:
        of = f"last {base} of metrics.csv"
        if averaged > 1:
            of = f"mean of the last {averaged} {base} of metrics.csv"
    return f"{of}, one run" if n == 1 else f"{what} over {n} runs of the {of}"


def _describe(run: RunValue) -> Iterator[str]:
    """The lines on one run: its value, and what it came from."""
    meta = run.meta
    yield f"  {run.directory}"
    yield f"    value     {run.value!r} ({run.epochs} epochs)"
    yield f"    config    {run.directory / 'config.yaml'}"
    for start in meta.get("starts", []):
        state = {True: " (uncommitted changes)", False: " (clean)"}.get(start["git_dirty"], "")
        commit = f"{start['git_sha']}{state}" if start["git_sha"] else "not known"
        where = f"from epoch {start['epoch']}" + (
            f", iteration {start['iteration']}" if start["iteration"] else ""
        )
        yield f"    started   {start['time']}, {where}"
        yield f"    commit    {commit}"
        yield f"    device    {_device(start['machine'])}"
        versions = ", ".join(f"{k} {v}" for k, v in start["versions"].items() if v)
        yield f"    versions  {versions}"
    for word, key in (("weights", "initial_weights"), ("order", "batch_order")):
        if found := meta.get(f"{key}_sha256"):
            yield f"    {word:<8}  {key.replace('_', ' ')}  sha256 {found}"
    for name, md5 in meta.get("data_md5", {}).items():
        yield f"    data      {name}  md5 {md5}"


def _device(machine: dict[str, Any]) -> str:
    if machine["device"] == "cpu":
        return f"cpu, {machine['cpu']}, threads: {machine['threads']}"
    return f"{machine['device']}, {machine['gpu']}, processes: {machine['world_size']}"


def _read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file as text. Raises RecordError if it has none."""
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    if not rows:
        raise RecordError(f"{path} has no rows")
    return rows
