"""The paper's solvers, each tuned by the same budget, beside their settings in the paper.

The rules are those of experiments/equal_tuning.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml

from bpgrad.reporting.display.style import task_title
from bpgrad.training.config import CONFIG_DIR
from bpgrad.world import choose_device
from experiments.studies import staged
from experiments.studies.feedback_answers import Outcome, Word, compare
from experiments.studies.staged import POINTS, SETTINGS, Arm, Cell, Found, Runs, around

SEEDS = (1, 2, 3)  # settings are chosen by the first
DECAYS = (0.0, 5e-5, 5e-3)  # beside the paper's 5e-4
MULTIPLIED = ("cifar10",)  # tasks whose net has layer multipliers, of 0.1 but in the last layer
DECADE = 2  # settings, over which a solver's step changes by the factor of 10 of the multipliers
OURS = "BPGrad"
# Solver, whether its learning rates have the layers' multipliers in the paper's settings.
SOLVERS = {
    "Adagrad": ("adagrad", True),
    "Adadelta": ("adadelta", False),
    "RMSProp": ("rmsprop", True),
    "Adam": ("adam", True),
    "Eve": ("eve", True),
    OURS: ("bpgrad", False),
    "SGD": ("sgd", True),
}


def _arm(task: str, name: str) -> Arm:
    solver, _ = SOLVERS[name]
    if solver == "adadelta":
        return Arm(name, ("solver=adadelta",), around("eps", 1e-6, 10.0), "ε")
    paper = yaml.safe_load((CONFIG_DIR / "paper.yaml").read_text(encoding="utf-8"))
    key = "lipschitz" if solver == "bpgrad" else "lr"
    setting = around(key, float(paper[task][solver][key]))
    return Arm(name, (f"solver={solver}",), setting, "L" if key == "lipschitz" else key)


ARMS = {
    task: tuple(_arm(task, name) for name in SOLVERS if name != "Eve" or task == "cifar10")
    for task in POINTS
}


# -- stages --------------------------------------------------------------------------------------


def tuning(task: str, arm: Arm, found: Found) -> list[Cell]:
    """The first seed's runs among which a setting is chosen, as far as they are known."""
    cells = [Cell(task, arm, position, SEEDS[0]) for position in SETTINGS]
    cells = staged.widened(cells, found)
    best = staged.best(cells, found)
    if best is not None and task in MULTIPLIED:
        cells += flipped(arm, best)
        best = staged.best(cells, found)
    if best is not None:
        cells += [replace(best, also=(*best.also, ("weight_decay", decay))) for decay in DECAYS]
    return cells


def flipped(arm: Arm, best: Cell) -> list[Cell]:
    """The layers' multipliers the other way round: at the same setting, and at the one of that
    with which most layers step as far as before: a tenth of the rate without, ten times with them.
    """
    on = not SOLVERS[arm.name][1]
    towards_longer = -1 if arm.symbol == "L" else 1
    moved = best.position + DECADE * (towards_longer if on else -towards_longer)
    other = replace(best, also=(("lr_multipliers", on),))
    return [other, replace(other, position=moved)]


def choice(task: str, arm: Arm, found: Found) -> Cell | None:
    """The first seed's run of the lowest held-out error; None as long as a run is missing."""
    return staged.best(tuning(task, arm, found), found)


def as_in_the_paper(task: str, arm: Arm) -> Cell:
    """The first seed's run of the paper's setting."""
    return Cell(task, arm, SETTINGS[2], SEEDS[0])


def planned(found: Found, task: str, seeds: Sequence[int], full: bool) -> list[Cell]:
    """All runs that are known to be wanted; `full`: at the paper's length too."""
    cells, shown = [], []
    for arm in ARMS[task]:
        cells += tuning(task, arm, found)
        chosen = choice(task, arm, found)
        shown += [as_in_the_paper(task, arm), *([chosen] if chosen is not None else [])]
    for length in (False, True) if full else (False,):
        cells += [replace(c, seed=seed, full=length) for seed in seeds for c in shown]
    return list(dict.fromkeys(cells))


def ready(found: Found, task: str, seeds: Sequence[int], full: bool) -> list[Cell]:
    """The next runs that are missing: the tuning, then one seed and length after the other."""
    missing = [cell for cell in planned(found, task, seeds, full) if cell not in found]
    return [c for c in missing if (c.seed, c.full) == (missing[0].seed, missing[0].full)]


def run(
    folder: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = (), jobs: int = 1
) -> None:
    """Train what is missing, stage by stage, task by task.

    Raises ConfigError for other seeds than the registered ones, BPGradError if a run fails.
    """
    seeds = staged.registered("equal_tuning", seeds, SEEDS)
    runs, full = Runs(folder, overrides), _on_gpu(overrides)
    staged.keep_overrides(folder, overrides)
    for task in ARMS:
        found = partial(runs.recorded, partial(planned, task=task, seeds=seeds, full=full))
        following = partial(ready, task=task, seeds=seeds, full=full)
        name = f"equal_tuning, {task_title(task)}"
        staged.train(name, folder, found, following, runs.pairs, jobs)


def missing(
    folder: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = (), jobs: int = 1
) -> Iterator[str]:
    """What is still to run, as far as the choices are known, in lines."""
    seeds = staged.registered("equal_tuning", seeds, SEEDS)
    runs, full = Runs(folder, overrides), _on_gpu(overrides)
    for task, arms in ARMS.items():
        found = staged.ended(partial(planned, task=task, seeds=seeds, full=full), runs.look)
        cells = [cell for cell in planned(found, task, seeds, full) if cell not in found]
        unknown = [arm.name for arm in arms if choice(task, arm, found) is None]
        name = f"equal_tuning, {task_title(task)}"
        yield from staged.still_to_do(name, runs.pairs(cells), unknown, jobs)
    if not full:
        yield "equal_tuning: 30 epochs; the paper's length too where there is a GPU"


def _on_gpu(overrides: Sequence[str]) -> bool:
    given = [o.partition("=")[2] for o in overrides if o.startswith("device=")]
    return choose_device(given[-1] if given else "auto").type == "cuda"


# -- the page ------------------------------------------------------------------------------------

LENGTHS = {False: "30 epochs, nine tenths of the training images", True: "The paper's length"}
CAPTION = (
    "Test error in %, mean of the last 5 epochs, then over the seeds: at the paper's setting, and "
    "at the one with the lowest held-out error of seed 1; last, what the second is to the first."
)
SAID = (
    "What chose these settings are held-out training images; the paper's own *L* was found with "
    "the test images in view. Of 30 epochs the rates that the paper drops fall at the same parts "
    "of the run, after epochs 9 and 18."
)


def show(folder: Path, figures: Path, tables: Path) -> str:
    """Write the table of all runs; what tuning changes in words, then a table a task and length."""
    runs = Runs(folder, staged.kept_overrides(folder))
    found = {
        task: staged.ended(partial(planned, task=task, seeds=SEEDS, full=True), runs.look)
        for task in ARMS
    }
    runs.write_table(tables / "equal_tuning.csv", found.values())
    parts = [words(found), SAID]
    for task, its in found.items():
        for full in LENGTHS:
            if any(cell.full == full for cell in its):
                parts += [f"**{task_title(task)}. {LENGTHS[full]}.** {CAPTION}"]
                parts.append(_markdown(task, its, full))
        if its:
            parts.append(_effects(task, its))
    return "\n\n".join(parts)


def words(found: Mapping[str, Found]) -> str:
    """How BPGrad stands among the others before tuning and after it, a line a task and length."""
    lines = []
    for task, its in found.items():
        for full, length in LENGTHS.items():
            both = {tuned: _by_arm(task, its, full, tuned) for tuned in (False, True)}
            if not all(any(outcomes.values()) for outcomes in both.values()):
                continue
            before, after = (_standing(task, outcomes) for outcomes in both.values())
            lines.append(
                f"- {task_title(task)}, {length[0].lower()}{length[1:]}: at the paper's settings "
                f"BPGrad is {before}; with all tuned by the same budget it is {after}."
            )
    return "\n".join(lines) or "Not all of the tuning has been run."


def _standing(task: str, outcomes: Mapping[str, Mapping[int, Outcome]]) -> str:
    """What BPGrad is to the others by test error."""
    by_word: dict[Word, list[str]] = {}
    seeds = []
    for name, theirs in outcomes.items():
        if name != OURS:
            found = compare(outcomes[OURS], theirs, POINTS[task])["test error"]
            by_word.setdefault(found.word, []).append(name)
            seeds.append(found.n)
    texts: dict[Word, str] = {
        "better": "better than {}",
        "tie": "tied with {}",
        "worse": "worse than {}",
        "undecided": "undecided against {}",
    }
    parts = [text.format(", ".join(by_word[w])) for w, text in texts.items() if w in by_word]
    return f"{'; '.join(parts)} (n = {min(seeds)})"


def _by_arm(task: str, found: Found, full: bool, tuned: bool) -> dict[str, dict[int, Outcome]]:
    """The outcomes by seed, of the setting chosen or of the paper's."""
    result = {}
    for arm in ARMS[task]:
        cell = choice(task, arm, found) if tuned else as_in_the_paper(task, arm)
        cells = [] if cell is None else [replace(cell, seed=s, full=full) for s in SEEDS]
        result[arm.name] = {cell.seed: found[cell] for cell in cells if cell in found}
    return result


def _markdown(task: str, found: Found, full: bool) -> str:
    lines = [
        "| solver | the paper's | test error (%) | chosen | test error (%) | what tuning changes |",
        "| --- | --- | ---: | --- | ---: | --- |",
    ]
    before, after = (_by_arm(task, found, full, tuned) for tuned in (False, True))
    for arm in ARMS[task]:
        chosen = choice(task, arm, found)
        cells = [arm.name, as_in_the_paper(task, arm).setting, _error(before[arm.name])]
        cells += ["", "", ""] if chosen is None else [chosen.setting, _error(after[arm.name]), ""]
        if chosen == as_in_the_paper(task, arm):
            cells[-1] = "nothing: the paper's is the best"
        elif before[arm.name] and after[arm.name]:
            change = compare(after[arm.name], before[arm.name], POINTS[task])["test error"]
            cells[-1] = f"{change.word} ({change.numbers})"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _error(its: Mapping[int, Outcome]) -> str:
    if not its:
        return "not run"
    diverged = " (*diverged*)" if any(outcome.diverged for outcome in its.values()) else ""
    return f"{staged.error_words(its).replace(' %', '')}{diverged}"


def _effects(task: str, found: Found) -> str:
    """What multipliers and weight decay do to the held-out error of seed 1, solver by solver."""
    decays = sorted((*DECAYS, 5e-4))
    multiplied = task in MULTIPLIED
    heads = ["layer multipliers off", "on"] if multiplied else []
    heads += [f"λ = {value:g}" for value in decays]
    lines = [
        "Held-out error (%) of seed 1, at each solver's best setting of the stage:",
        "",
        f"| solver | {' | '.join(heads)} |",
        f"| --- |{' ---: |' * len(heads)}",
    ]
    for arm in ARMS[task]:
        cells = tuning(task, arm, found)
        undecayed = [cell for cell in cells if "weight_decay" not in dict(cell.also)]
        plain = [cell for cell in undecayed if not cell.also]
        if staged.best(plain, found) is None:
            continue
        values = []
        if multiplied:
            others = [cell for cell in undecayed if cell.also]
            both = {SOLVERS[arm.name][1]: plain, not SOLVERS[arm.name][1]: others}
            values = [_least(both[on], found) for on in (False, True)]
        at = {5e-4: undecayed} | {
            decay: [cell for cell in cells if dict(cell.also).get("weight_decay") == decay]
            for decay in DECAYS
        }
        values += [_least(at[decay], found) for decay in decays]
        lines.append(f"| {arm.name} | {' | '.join(values)} |")
    return "\n".join(lines)


def _least(cells: Sequence[Cell], found: Found) -> str:
    """The held-out error of the best of some runs; a dash until all of them have ended."""
    best = staged.best(cells, found) if cells else None
    return "–" if best is None else _held_out(found[best])


def _held_out(outcome: Outcome) -> str:
    return "*diverged*" if outcome.diverged else f"{outcome.held_out:.2f}"
