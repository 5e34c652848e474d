"""Does those runs of an experiment that are missing, then shows all of them side by side."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bpgrad.errors import BPGradError, ConfigError, DataError
from bpgrad.metrics import phase_title
from bpgrad.records.files import write_text
from bpgrad.records.run_record import RunRecord
from bpgrad.training import lookup
from bpgrad.training.cli import one_line
from bpgrad.training.config import Config, check_seed, load, task_class
from bpgrad.training.identity import describe, run_name
from bpgrad.training.signatures import unknown
from experiments.engine.declaration import DECLARED, Experiment, PlannedRun, refuse_overrides

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bpgrad.reporting.runs import Comparison


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment with their configurations, and what the result is called.

    `name` (of the files) and `title` tell results of another scale, or with settings other than
    those declared, from the experiment's own. `heading` is what the figure says above it: nothing
    where it stands below its title in the report. Tables and figures go into `folder`.
    """

    name: str
    title: str
    heading: str
    declared: Experiment
    runs: tuple[tuple[PlannedRun, Config], ...]
    folder: Path


def prepare(
    experiment: Experiment,
    seeds: Sequence[int] = (),
    scale: str | None = None,
    overrides: Sequence[str] = (),
) -> Plan:
    """Compose and check every run; nothing is trained yet. `scale` replaces the one declared.

    A run is looked for under results_root first, then among the suite's records.
    Raises ConfigError that names the run which cannot be composed, or what the experiment needs.
    """
    if experiment.needs:
        raise ConfigError(f"{experiment.name} cannot run yet; it needs {experiment.needs}")
    refuse_overrides(overrides, DECLARED, "--set")
    scale = scale or experiment.scale
    runs = []
    changes: dict[str, None] = {}
    composed: dict[tuple[str, str], Config] = {}  # Hydra is slow, and a seed changes nothing else
    for run in experiment.runs(seeds):
        key = run.task, run.solver
        if key not in composed:
            declared = [*run.overrides, f"scale={scale}"]
            composed[key] = _compose(run, [*declared, *overrides])
            if overrides:
                before = dict(leaves(describe(_compose(run, declared))))
                after = leaves(describe(composed[key]))
                changes |= {f"{k}={v}": None for k, v in after if before.get(k, ...) != v}
        runs.append((run, lookup.here_or_in_suite(_with_seed(composed[key], run))))
    name = experiment.name
    title = f"{experiment.paper}: {experiment.title}" if experiment.paper else experiment.title
    caveats = []
    if scale != experiment.scale:
        name += f"-{scale}"
        caveats.append(f"scale={scale}, not the full size")
    if changes:
        name += "-modified"
        caveats.append(f"modified: {', '.join(changes)}")
    if caveats:
        title += f" ({'; '.join(caveats)})"
    folder = Path(next(iter(composed.values())).results_root).parent
    heading = title if caveats or not experiment.report else ""
    return Plan(name, title, heading, experiment, tuple(runs), folder)


def execute(plan: Plan, jobs: int = 1, *, brief: bool = False) -> int:
    """Train, resume or skip the runs, `jobs` at a time; how many failed, each told on stderr.

    On a GPU they share a process (bpgrad.training.company), which takes jobs=0 for as many as are
    fastest; elsewhere that is 1. With `brief` a run prints one line, of what it ends with. The
    suite's records are only read.

    Raises Interrupted on Ctrl-C or SIGTERM.
    """
    runs = [pair for pair in plan.runs if not lookup.is_in_suite(pair[1])]
    if found := len(plan.runs) - len(runs):
        print(f"{found} of {len(plan.runs)} runs are read from {lookup.SUITE_RECORDS}", flush=True)
    if jobs != 1 and _on_gpu(plan):
        from bpgrad.training.company import train_together

        return train_together([(str(run), cfg) for run, cfg in runs], jobs)
    if jobs > 1:
        from experiments.engine import side_by_side

        return side_by_side.execute(runs, jobs)
    from bpgrad.training.progress import quiet, say
    from bpgrad.training.trainer import train  # torch starts once all configurations are right

    failed = 0
    lacking: set[str] = set()  # tasks without their data, which no other run will have either
    for k, (run, cfg) in enumerate(runs, 1):
        if run.task in lacking:
            failed += 1
            continue
        count = f"[{k}/{len(runs)}] {run}"
        try:
            if not brief:
                say(count)
                train(cfg)
                continue
            with quiet():
                train(cfg)
            say(f"{count}: {_end(run, cfg)}")
        except BPGradError as error:
            failed += 1
            if isinstance(error, DataError):
                lacking.add(run.task)
            print(f"error: {run}: {error}", file=sys.stderr, flush=True)
    if lacking and plan.declared.takes:
        print(f"it takes {plan.declared.takes}", file=sys.stderr, flush=True)
    return failed


def _on_gpu(plan: Plan) -> bool:
    from bpgrad.world import choose_device

    return any(choose_device(cfg.device).type == "cuda" for _, cfg in plan.runs)


def _end(run: PlannedRun, cfg: Config) -> str:
    """What a run ends with, in a few words."""
    from bpgrad.reporting.runs import look_at

    found = look_at(record_of(cfg), run.solver, run.seed)
    if not found.finished:
        return found.state
    name, metric = list(task_class(cfg).metrics.items())[1]
    column = f"val_{name}"
    value = f"{found.rows[column].iloc[-1]:.2f} {metric.unit}".strip()
    seconds = found.rows["train_seconds"].sum()
    what = f"{phase_title(run.task, column)} {metric.title} {value}"
    return f"{what} after {len(found.rows)} epochs, {seconds:.0f} s"


def status(experiment: Experiment) -> Iterator[str]:
    """How many runs of the experiment have finished, and a line for each that is under way, has
    diverged or is damaged. Those to come are what a dry run lists.
    """
    from bpgrad.reporting.runs import look_at

    if experiment.needs:
        count = len(list(experiment.runs()))
        yield f"{experiment.name:<18}   0 of {count} runs finished  {experiment.title}"
        yield f"{'':<19}cannot run yet; it needs {experiment.needs}"
        return
    runs = prepare(experiment).runs
    found = [(run, look_at(record_of(cfg), run.solver, run.seed)) for run, cfg in runs]
    done = sum(recorded.finished for _, recorded in found)
    yield f"{experiment.name:<18} {done:>3} of {len(runs)} runs finished  {experiment.title}"
    for run, recorded in found:
        if recorded.state not in ("finished", "not run"):
            yield f"{'':<19}{run}: {recorded.state}"
    if experiment.takes and not done:
        yield f"{'':<19}it takes {experiment.takes}"


def gather(plan: Plan) -> list[Comparison]:
    """What is recorded of the runs, finished or not, task by task.

    Raises RecordError if the runs cannot be compared.
    """
    from bpgrad.reporting.runs import Comparison, look_at

    comparisons = []
    for task in dict.fromkeys(run.task for run, _ in plan.runs):
        pairs = [(run, cfg) for run, cfg in plan.runs if run.task == task]
        found = (look_at(record_of(cfg), run.solver, run.seed) for run, cfg in pairs)
        metrics = task_class(pairs[0][1]).metrics
        its = plan.declared
        if its.curve and its.curve not in metrics:
            raise ConfigError(unknown(f"curve: {its.curve}", metrics))
        shown = its.averaged, its.note, its.curve, its.fluctuation
        comparisons.append(Comparison(task, metrics, tuple(found), *shown))
    return comparisons


def write(plan: Plan, comparisons: Sequence[Comparison], paper_values: Path) -> list[str]:
    """Write table and figure beside the runs' folder; a line for each with its paths.

    `paper_values` is the file of the values that the paper prints.
    """
    from bpgrad.reporting.display import curves, latex, tables
    from experiments.engine.printed import printed

    table = plan.folder / "tables" / plan.name
    figure = plan.folder / "figures" / plan.name
    paper, title = printed(paper_values, plan.name), plan.title
    write_text(table.with_suffix(".csv"), tables.as_csv(comparisons, paper))
    write_text(table.with_suffix(".md"), tables.as_markdown(title, comparisons, paper))
    write_text(table.with_suffix(".tex"), latex.as_latex(plan.name, title, comparisons, paper))
    lines = [f"table   {table}.md, .csv, .tex"]
    if plan.declared.shows != "table":
        drawing = _draw(plan, comparisons)
        for suffix in (".svg", ".png"):
            curves.save(drawing, figure.with_suffix(suffix))
        lines.append(f"figure  {figure}.svg, .png")
    return lines


def _draw(plan: Plan, comparisons: Sequence[Comparison]) -> Figure:
    from bpgrad.reporting.display import certificate, curves, outcomes

    match plan.declared.shows:
        case "epochs":
            return curves.draw(plan.heading, comparisons)
        case "certificate":
            return certificate.draw(plan.heading, comparisons)
        case "variants":
            return outcomes.draw_variants(plan.heading, comparisons)
        case "sweep":
            return outcomes.draw_sweep(plan.heading, comparisons)
        case column:
            return curves.draw_steps(plan.heading, comparisons, column)


def report(plan: Plan, paper_values: Path, picture: Path | None = None) -> None:
    """Show the table of what has finished; write it, and the figure, into the folder `picture` too.

    Raises RecordError if the runs cannot be compared, BPGradError if none has finished.
    """
    from rich.console import Console

    from bpgrad.reporting.display import tables
    from experiments.engine.printed import printed

    comparisons = gather(plan)
    if not any(run.finished for comparison in comparisons for run in comparison.runs):
        raise BPGradError(f"{plan.name}: no run has finished, so there is nothing to show")
    written = write(plan, comparisons, paper_values)
    tables.show(plan.title, comparisons, Console(), printed(paper_values, plan.name))
    print("", *written, sep="\n", flush=True)
    if picture is not None:
        _save_picture(plan, comparisons, picture)
    if not plan.declared.report:
        from experiments.engine.prose import seen

        texts = [seen(one, plan.runs[0][0].solver) for one in comparisons]
        print("\nWhat you have seen: " + " ".join(filter(None, texts)), flush=True)


def _save_picture(plan: Plan, comparisons: Sequence[Comparison], folder: Path) -> None:
    """Write the figure as a PNG for the documents, and beside it what it shows, as CSV.

    The PNG holds the checksum of the CSV: the two belong together.
    """
    from bpgrad.reporting.display import curves

    lines = ["run,solver,epoch,train_objective,held_out"]
    for one in comparisons:
        column = f"val_{list(one.metrics)[1]}"
        for run in one.runs:
            name = "/".join(run.directory.parts[-3:])
            for row in run.rows.to_dict("records"):
                values = f"{row['train_objective']:.4g},{row[column]:.4g}"
                lines.append(f'{name},"{run.solver}",{int(row["epoch"])},{values}')
    text = "\n".join(lines) + "\n"
    write_text(folder / f"{plan.name}.csv", text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    curves.save(_draw(plan, comparisons), folder / f"{plan.name}.png", description=digest)


def _compose(run: PlannedRun, overrides: Sequence[str]) -> Config:
    try:
        return load(overrides)
    except (BPGradError, HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{run}: {one_line(error)}") from error


def _with_seed(cfg: Config, run: PlannedRun) -> Config:
    try:
        check_seed(run.seed)
    except ConfigError as error:
        raise ConfigError(f"{run}: {error}") from error
    return replace(cfg, task=deepcopy(cfg.task), solver=deepcopy(cfg.solver), seed=run.seed)


def record_of(cfg: Config) -> RunRecord:
    """Where the run is recorded."""
    return RunRecord(Path(cfg.results_root), Path(cfg.checkpoint_root), run_name(cfg))


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by their dotted keys."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
