"""Is BPGrad what one should take on any task here? Rivals of today, tuned by the same budget.

The rules are those of experiments/rivals.yaml.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from packaging.version import Version

from bpgrad.errors import ConfigError
from bpgrad.reporting.display.style import task_title
from bpgrad.suite import RIVALS
from experiments.studies import staged
from experiments.studies.feedback_answers import BySeed, Compared, Outcome, Word, compare
from experiments.studies.staged import FEW, POINTS, SETTINGS, Arm, Cell, Found, Runs, around

SEEDS = (1, 2, 3, 4, 5, 6, 7, 8)  # settings are chosen by the first
LIPSCHITZ = {"mnist": 15.0, "cifar10": 50.0}  # the paper's
TASKS = tuple(POINTS)

BPGRAD, SCHEDULED = "BPGrad", "BPGrad × cosine"


def _arms(task: str) -> tuple[Arm, ...]:
    on_mnist = task == "mnist"
    lipschitz = around("lipschitz", LIPSCHITZ[task])

    def rival(name: str, file: str, key: str, middle: float, symbol: str = "") -> Arm:
        return Arm(name, (f"solver=rivals/{file}",), around(key, middle), symbol or key)

    return (
        Arm(BPGRAD, ("solver=bpgrad",), lipschitz, "L"),
        Arm(SCHEDULED, ("solver=bpgrad", "solver.schedule=cosine"), lipschitz, "L"),
        rival("SGD (warm-up, cosine)", "sgd", "lr", 0.005),
        rival("AdamW (warm-up, cosine)", "adamw", "lr", 0.002 if on_mnist else 0.0006),
        rival("Schedule-Free SGD", "schedulefree_sgd", "lr", 0.05),
        rival(*("Schedule-Free AdamW", "schedulefree_adamw", "lr", 0.0025 if on_mnist else 0.0008)),
        rival("Prodigy (cosine)", "prodigy", "d_coef", 1.0),
        rival("ALI-G", "alig", "max_lr", 0.01),
        rival("MoMo", "momo", "lr", 0.1),
        rival("MomSPS", "momsps", "c", 1.0),
        rival("SPS (safeguarded)", "sps_safe", "M", 1.0 if on_mnist else 50.0),
    )


ARMS = {task: _arms(task) for task in TASKS}


# -- stages --------------------------------------------------------------------------------------


def tuning(task: str, arm: Arm, found: Found) -> list[Cell]:
    """The first seed's runs of an arm: the range, and one more if the best lies at its end."""
    cells = [Cell(task, arm, position, SEEDS[0]) for position in SETTINGS]
    return staged.widened(cells, found)


def choice(task: str, arm: Arm, found: Found) -> Cell | None:
    """The first seed's run of the lowest held-out error; None as long as a run is missing."""
    return staged.best(tuning(task, arm, found), found)


def planned(found: Found, task: str, seeds: Sequence[int]) -> list[Cell]:
    """All runs that are known to be wanted, by seed; more as the choices become known."""
    cells = [cell for arm in ARMS[task] for cell in tuning(task, arm, found)]
    chosen = [choice(task, arm, found) for arm in ARMS[task]]
    cells += [replace(cell, seed=seed) for seed in seeds for cell in chosen if cell is not None]
    return list(dict.fromkeys(cells))


def ready(found: Found, task: str, seeds: Sequence[int]) -> list[Cell]:
    """The next runs that are missing: all of the first seed, then one seed after the other."""
    missing = [cell for cell in planned(found, task, seeds) if cell not in found]
    return [cell for cell in missing if cell.seed == missing[0].seed]


def run(
    folder: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = (), jobs: int = 1
) -> None:
    """Train what is missing, stage by stage, task by task.

    Raises ConfigError for other seeds than the registered ones and where a package is missing,
    BPGradError if a run fails.
    """
    seeds = staged.registered("rivals", seeds, SEEDS)
    runs = _runs(folder, overrides)
    staged.keep_overrides(folder, overrides)
    for task in ARMS:
        found = partial(runs.recorded, partial(planned, task=task, seeds=seeds))
        following = partial(ready, task=task, seeds=seeds)
        staged.train(f"rivals, {task_title(task)}", folder, found, following, runs.pairs, jobs)


def missing(
    folder: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = (), jobs: int = 1
) -> Iterator[str]:
    """What is still to run, as far as the choices are known, in lines."""
    seeds = staged.registered("rivals", seeds, SEEDS)
    runs = _runs(folder, overrides)
    for task, arms in ARMS.items():
        found = staged.ended(partial(planned, task=task, seeds=seeds), runs.look)
        cells = [cell for cell in planned(found, task, seeds) if cell not in found]
        unknown = [arm.name for arm in arms if choice(task, arm, found) is None]
        yield from staged.still_to_do(
            f"rivals, {task_title(task)}", runs.pairs(cells), unknown, jobs
        )


def _runs(folder: Path, overrides: Sequence[str]) -> Runs:
    """The runs; raises ConfigError where a package is missing, or of another version."""
    if absent := [module for module in RIVALS if find_spec(module) is None]:
        raise ConfigError(f"rivals: needs {', '.join(absent)}: pip install 'bpgrad[rivals]'")
    runs = Runs(folder, overrides)
    for arm in ARMS[TASKS[0]]:
        package, _, wanted = (
            runs.config(Cell(TASKS[0], arm, 0, SEEDS[0])).solver.get("source", "").partition(" ")
        )
        # 1.0 and 1.0.0 are one version.
        if package and Version(found := version(package)) != Version(wanted):
            raise ConfigError(
                f"rivals: {package} {found} is installed, and the runs are those of {wanted}: "
                "pip install 'bpgrad[rivals]'"
            )
    return runs


# -- answers -------------------------------------------------------------------------------------

Answer = Literal["yes", "no", "as good as the best", "undecided"]


@dataclass(frozen=True)
class Judged:
    """The answer on a task: of which version of BPGrad, against which rival, and why."""

    task: str
    answer: Answer
    version: str
    rival: str
    why: str


def judge(task: str, outcomes: Mapping[str, BySeed], held_out: Mapping[str, Outcome]) -> Judged:
    """Whether BPGrad is what to take, from the outcomes of all arms at their chosen settings.

    `held_out` has the first seed's outcome of each, which chooses the version of BPGrad and the
    rival that it is compared with.
    """
    ours, rival = (
        min(names, key=lambda name: held_out[name].rank)
        for names in ((BPGRAD, SCHEDULED), [n for n in outcomes if n not in (BPGRAD, SCHEDULED)])
    )
    versus = {
        name: compare(outcomes[ours], its, POINTS[task])["test error"]
        for name, its in outcomes.items()
        if name not in (BPGRAD, SCHEDULED)
    }
    answers: dict[Word, Answer] = {"better": "yes", "tie": "as good as the best", "worse": "no"}
    why = f"Against {rival}: {versus[rival].word} ({versus[rival].numbers})."
    if others := _others({name: its for name, its in versus.items() if name != rival}):
        why += f" The others, uncorrected: {others}."
    return Judged(task, answers.get(versus[rival].word, "undecided"), ours, rival, why)


def _others(versus: Mapping[str, Compared]) -> str:
    parts = []
    texts = {"better": "better than", "tie": "ties with", "worse": "worse than"}
    for word, before in (texts | {"undecided": "undecided against"}).items():
        if its := [name for name, compared in versus.items() if compared.word == word]:
            parts.append(f"{before} {', '.join(its)}")
    return "; ".join(parts)


def words(found: Mapping[str, Found], seeds: Sequence[int] = SEEDS) -> str:
    """The answer to the question of the study, in Markdown: in short, then task by task."""
    judged, lines = _judged(found, seeds)
    return "\n".join([_in_short(judged), "", *lines])


def _judged(found: Mapping[str, Found], seeds: Sequence[int]) -> tuple[list[Judged], list[str]]:
    """The tasks of which all has been run, and a line a task."""
    judged, lines = [], []
    for task in ARMS:
        chosen = _chosen(task, found[task], seeds)
        if {arm.name for arm in ARMS[task]} != chosen.keys():
            left = [arm.name for arm in ARMS[task] if arm.name not in chosen]
            lines.append(f"- {task_title(task)}: still to run: {', '.join(left)}.")
            continue
        outcomes = {name: its for name, (_, its) in chosen.items()}
        its = judge(task, outcomes, {name: by[SEEDS[0]] for name, by in outcomes.items()})
        judged.append(its)
        setting = chosen[its.version][0].setting
        cosine = compare(outcomes[SCHEDULED], outcomes[BPGRAD], POINTS[task])["test error"]
        n = min(len(each) for each in outcomes.values())
        few = f" Few seeds: n = {n}." if n < FEW else ""
        lines.append(
            f"- {task_title(task)}: **{its.answer}**, of {its.version}, {setting} "
            f"({staged.error_words(outcomes[its.version])}). {its.why} A cosine makes BPGrad "
            f"{_of_the_cosine(cosine)}.{few}"
        )
    return judged, lines


def _in_short(judged: Sequence[Judged]) -> str:
    question = "Is there any task here on which BPGrad is what you should take?"
    if not judged:
        return f"**{question}** Not all of it has been run."
    groups = []
    for answer, text in (
        ("yes", "Yes: {}"),
        ("as good as the best", "As good as the best rival: {}"),
        ("undecided", "Undecided: {}"),
        ("no", "No: {}"),
    ):
        its = [j for j in judged if j.answer == answer]
        if its:
            how = {BPGRAD: "without a cosine", SCHEDULED: "with a cosine"}
            where = (f"{task_title(j.task)}, {how[j.version]}, against {j.rival}" for j in its)
            groups.append(text.format("; ".join(where)))
    return f"**{question} {'. '.join(groups)}.** Of 30 epochs on nine tenths of the images."


def _of_the_cosine(compared: Compared) -> str:
    word = {"tie": "no other (a tie)", "undecided": "better or worse: undecided"}
    return f"{word.get(compared.word, compared.word)} ({compared.numbers})"


def _chosen(
    task: str, found: Found, seeds: Sequence[int]
) -> dict[str, tuple[Cell, dict[int, Outcome]]]:
    """By arm the setting chosen, and what it has come to by seed."""
    chosen = {}
    for arm in ARMS[task]:
        cell = choice(task, arm, found)
        if cell is not None:
            its = {seed: found.get(replace(cell, seed=seed)) for seed in seeds}
            chosen[arm.name] = cell, {seed: o for seed, o in its.items() if o is not None}
    return chosen


# -- the page ------------------------------------------------------------------------------------


def findings(folder: Path) -> list[str]:
    """Whether there is a task on which BPGrad is what one should take."""
    runs = Runs(folder, staged.kept_overrides(folder))
    found = {
        task: staged.ended(partial(planned, task=task, seeds=SEEDS), runs.look) for task in ARMS
    }
    return [_in_short(judged).replace("**", "")] if (judged := _judged(found, SEEDS)[0]) else []


CAPTION = (
    "Test error in % and training objective at fixed weights (geometric mean), of the last 5 "
    "epochs of 30, at the setting with the lowest held-out error of seed 1; *diverged*: any of "
    "the seeds. Weight decay is each package's own: ALI-G and MomSPS have none, MoMo's acts with "
    "its largest rate."
)


def show(folder: Path, figures: Path, tables: Path) -> str:
    """Write the table of all runs; the answer in words, then a table a task."""
    runs = Runs(folder, staged.kept_overrides(folder))
    found = {
        task: staged.ended(partial(planned, task=task, seeds=SEEDS), runs.look) for task in ARMS
    }
    runs.write_table(tables / "rivals.csv", found.values())
    parts = [words(found)]
    for task, its in found.items():
        if its:
            parts += [f"**{task_title(task)}.** {CAPTION}", _markdown(task, its)]
    return "\n\n".join(parts)


def _markdown(task: str, found: Found) -> str:
    lines = [
        "| solver | setting | seeds | test error (%) | objective | tried (held-out error, %) |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    chosen = _chosen(task, found, SEEDS)
    for arm in ARMS[task]:
        tried = [(cell, found[cell]) for cell in tuning(task, arm, found) if cell in found]
        listed = "; ".join(
            f"{cell.setting}: {'*diverged*' if o.diverged else f'{o.held_out:.2f}'}"
            for cell, o in tried
        )
        if arm.name not in chosen:
            lines.append(f"| {arm.name} | | | | | {listed or 'not run'} |")
            continue
        cell, its = chosen[arm.name]
        error = staged.error_words(its).partition(" %")[0]
        objective = f"{math.exp(np.mean([o.objective for o in its.values()])):.3g}"
        if any(outcome.diverged for outcome in its.values()):
            error, objective = f"{error} (*diverged*)", "∞"
        lines.append(
            f"| {arm.name} | {cell.setting} | {len(its)} | {error} | {objective} | {listed} |"
        )
    return "\n".join(lines)
