"""The report's sentences: what was run, what the paper claims, what came out; all computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bpgrad.metrics import phase_title
from bpgrad.reporting.display.grid import summarise, text_of
from bpgrad.reporting.display.style import heading_of, task_title
from bpgrad.reporting.inference.statistics import MIN_SEEDS
from bpgrad.reporting.runs import Comparison, Run

NOTE = """\
Over seeds a claim is decided by paired t-tests after Holm, from three seeds on; how each one is
decided stands in `experiments/claims/`. Its thresholds come from the suite's specification,
written before any run, or, where that leaves them open, are marked as our own there; those were
written while the first runs were under way. *Undecided* means that the runs so far are compatible
with the claim and with its contrary. Claims are not corrected across each other: of 21, one may
be decided by chance."""


def made(
    comparisons: Iterable[Comparison],
    studies: Mapping[str, Sequence[Mapping[str, Any]]],
    tuning: Mapping[str, int] | None = None,
) -> str:
    """What was run and on what, in a paragraph.

    `studies` gives the entries of meta.json of each recorded study by its title, `tuning` how many
    runs that stand in no table chose settings, by the title of what they belong to.
    """
    planned = _each_once(comparisons)
    runs = [run for run in planned if run.finished]
    entries = [start for run in runs for start in run.meta["starts"]]
    entries += [entry for computed in studies.values() for entry in computed]
    chose = (
        f"{_count(count, 'run')} beside them chose settings and stand in no table ({title})."
        for title, count in (tuning or {}).items()
    )
    return "\n".join(
        [_what_was_run(runs, len(planned), len(studies)), *chose, *_where(runs, entries)]
    )


def about(
    comparisons: Sequence[Comparison],
    command: str,
    paper: str = "",
    printed: bool = False,
) -> str:
    """What came out of an experiment, and how to run it again.

    `paper` is what it reproduces, and `printed` whether the paper prints numbers of it.
    """
    sentences = [words for comparison in comparisons if (words := _came_out(comparison))]
    if paper and comparisons:
        sentences.append(
            "The paper's numbers stand in brackets, and ours minus the paper's."
            if printed
            else f"{paper} of the paper prints no numbers, and its curves are not legible enough "
            "to be read off: what it says of them are the claims."
        )
    again = "runs what is missing of it and builds" if comparisons else "computes and builds"
    sentences.append(f"`{command}` {again} it again.")
    return "\n".join(sentences)


def _each_once(comparisons: Iterable[Comparison]) -> list[Run]:
    """The planned runs; experiments share some of them."""
    return list({run.directory: run for c in comparisons for run in c.runs}.values())


def _by_length(runs: Sequence[Run]) -> dict[tuple[str, int], list[Run]]:
    """The runs by title and epochs, which is what may have several seeds; in increasing order."""
    found: dict[tuple[str, int], list[Run]] = {}
    for run in sorted(runs, key=lambda run: int(run.config["epochs"])):
        found.setdefault((_title(run), int(run.config["epochs"])), []).append(run)
    return found


def _what_was_run(runs: Sequence[Run], planned: int, studies: int) -> str:
    words = [
        f"This report rests on {_count(len(runs), 'finished training run')} of {planned} planned"
    ]
    for title in dict.fromkeys(_title(run) for run in runs):
        of_task = [
            f"{_count(len(found), 'run')} of {epochs} epochs with "
            f"{_count(len({run.seed for run in found}), 'seed')}"
            for (its, epochs), found in _by_length(runs).items()
            if its == title
        ]
        words.append(f"{title}: {_and(of_task)}")
    text = words[0] + (f" ({'; '.join(words[1:])})" if runs else "")
    text += f" and on {_count(studies, 'study')} beside them." if studies else "."
    full = [run for run in runs if run.scale == "paper"]
    if runs:
        marked = len(runs) - len(full)
        which = "All" if not marked else "All but the reduced ones" if full else "None of them"
        text += f" {which} have the paper's models and data" + _shorter(full)
        text += ", and the runs of one table and seed share initial weights and batch order."
    return text


def _shorter(runs: Sequence[Run]) -> str:
    """Which runs are not as long as the paper's, by task and epochs; empty if all are."""
    full = {title: max(epochs for its, epochs in _by_length(runs) if its == title)
            for title, _ in _by_length(runs)}  # fmt: skip
    shorter = [
        f"{_count(len(found), 'run')} of {epochs} instead of {full[title]} on {title}"
        for (title, epochs), found in _by_length(runs).items()
        if epochs < full[title]
    ]
    return f", but not all its epochs: {_and(shorter)}" if shorter else ""


def _where(runs: Sequence[Run], entries: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    if not entries:
        return
    hours = sum(float(run.rows["train_seconds"].sum()) for run in runs) / 3600
    machines = {run.machine for run in runs}
    versions = {f"torch {e['versions']['torch']}" for e in entries if "versions" in e}
    commits = {e["git_sha"] for e in entries if e.get("git_sha")}
    if runs:
        yield f"Training took {hours:.1f} hours on {_and(sorted(machines))}."
    if commits:
        yield (
            f"The code was at {_count(len(commits), 'commit')}, with {_and(sorted(versions))}; "
            "commit, versions and machine of each run stand in its record."
        )


def _came_out(comparison: Comparison) -> str:
    """Which solver ends best in the training objective and in the metric that is shown."""
    summary = summarise(comparison)
    if summary.empty:
        return ""
    first, second = list(comparison.metrics)[:2]
    ends = []
    for column in (f"train_{first}", f"val_{second}"):
        metric = comparison.metrics[column.partition("_")[2]]
        values = summary.set_index("solver")[column].dropna()
        if values.empty:
            continue
        best = str(values.idxmax() if metric.higher_is_better else values.idxmin())
        most = "highest" if metric.higher_is_better else "lowest"
        value = f"{text_of(values[best], metric)} {metric.unit}".strip()
        what = f"{phase_title(comparison.task, column)} {metric.title}"
        ends.append(
            f"the {most} {what} is {value} ({best})"
            if len(values) > 1
            else f"the {what} of {best} is {value}"
        )
    seeds = summary["seeds"]
    n = f"n = {seeds.min()}" + (f" to {seeds.max()}" if seeds.max() > seeds.min() else "")
    return f"At the end, on {heading_of(comparison)}, {_and(ends)}; {n}."


def _title(run: Run) -> str:
    return task_title(run.directory.parent.parent.name, run.scale)


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"


def _and(words: Iterable[str]) -> str:
    *others, end = words
    return f"{', '.join(others)} and {end}" if others else end


def seen(comparison: Comparison, solver: str) -> str:
    """What a comparison has shown, and where a solver stands in it, in two or three sentences."""
    summary = summarise(comparison)
    if solver not in list(summary.get("solver", ())) or len(summary) < 2:
        return ""
    runs = [run for run in comparison.runs if run.finished]
    epochs = max(len(run.rows) for run in runs)
    sentences = [
        f"on {heading_of(comparison)}, {len(summary)} solvers began with the same weights and "
        f"saw the same batches for {epochs} epochs."
    ]
    first, second = list(comparison.metrics)[:2]
    for column in (f"train_{first}", f"val_{second}"):
        metric = comparison.metrics[column.partition("_")[2]]
        values = summary.set_index("solver")[column].sort_values(
            ascending=not metric.higher_is_better
        )
        what = f"{phase_title(comparison.task, column)} {metric.title}"
        best, place = str(values.index[0]), list(values.index).index(solver) + 1
        most = "highest" if metric.higher_is_better else "lowest"
        others = (
            ""
            if best == solver
            else f"; {solver}'s is {text_of(values[solver], metric)}, "
            f"number {place} of {len(values)}"
        )
        value = f"{text_of(values.iloc[0], metric)} {metric.unit}".strip()
        sentences.append(f"The {most} {what} is {best}'s, {value}{others}.")
    n = int(summary["seeds"].min())
    if n < MIN_SEEDS:
        sentences.append(f"With {_count(n, 'seed')} none of this can be told from chance.")
    return " ".join(sentences)
