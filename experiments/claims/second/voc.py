"""C17 to C20 by the second rules: detection and segmentation on Pascal VOC, at either scale."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from bpgrad.reporting.inference.graded import Check, Scale
from bpgrad.reporting.runs import Run
from experiments.claims.detection import ADADELTA, DETECTION, EQUAL_MAP, VOC_CLASSES, WORKS
from experiments.claims.second.common import (
    ALL_BACKGROUND,
    FACTOR,
    Checks,
    beats_each,
    constant,
    counted,
    diverged,
    mean_of_last,
    objectives,
)
from experiments.claims.segmentation import FLUCTUATION_EPOCHS, SEGMENTATION, SEGMENTATION_SCORES
from experiments.engine.checks import fluctuation, values_of
from experiments.engine.claim import REDUCED, Evidence, Runs, ended

MAP, CLASSES = Scale("points", EQUAL_MAP), Scale("classes", 1.0)
SCORES = Scale("points", 1.0)  # the tolerance of a number of Table 3


def c17(evidence: Evidence, suffix: str = "") -> list[Check]:
    """Training loss above Adam's, mAP about equal, best on 11 classes (10 without ties)."""
    runs = _at(DETECTION, suffix)
    loss = objectives(evidence, runs)
    scores = counted(evidence, runs, mean_of_last("val_map"), 0.0)
    checks = [
        Check(
            "training objective: Adam < BPGrad",
            *(loss["Adam"], loss["BPGrad"], "training objective", FACTOR),
        ),
        Check(
            f"mAP: BPGrad − Adam = 0 ± {EQUAL_MAP:g} points",
            *(scores["BPGrad"], scores["Adam"], "mAP", MAP),
            low=-EQUAL_MAP,
            high=EQUAL_MAP,
            alike=True,
        ),
    ]
    for words, ties, classes in (("best or tied", True, 11), ("strictly best", False, 10)):
        counts = _best_classes(evidence, runs, ties=ties)
        # Half a class below: the counts are whole, and a mean of exactly 11 is enough.
        text = f"classes with the {words} AP: at least {classes}"
        limit = constant(counts, classes - 0.5)
        column = f"classes, {words}"
        checks.append(Check(text, limit, counts, column, CLASSES, superior=True))
    return checks


def _best_classes(evidence: Evidence, runs: Runs, *, ties: bool) -> dict[int, float]:
    """On how many of the 20 classes BPGrad has the best AP, as printed: to one decimal."""
    counts: dict[int, float] = {}
    for name in VOC_CLASSES:
        columns = counted(evidence, runs, mean_of_last(f"val_ap_{name}"), 0.0)
        first, *others = (columns[solver] for solver in runs.solvers)
        for seed in first:
            if all(seed in other for other in others):
                ap, best = round(first[seed], 1), max(round(other[seed], 1) for other in others)
                counts[seed] = counts.get(seed, 0) + (ap > best or (ties and ap == best > 0))
    return counts


def c18(evidence: Evidence, suffix: str = "") -> list[Check]:
    """Each of Adadelta's tuned settings stays 10 points of mAP below Adagrad."""
    runs = _at(DETECTION, suffix)
    adagrad = counted(evidence, runs, mean_of_last("val_map"), 0.0)["Adagrad"]
    comparison = evidence.comparisons[ADADELTA + suffix, runs.task]
    tuned = Runs(ADADELTA + suffix, runs.task, comparison.solvers)
    found = counted(evidence, tuned, mean_of_last("val_map"), 0.0)
    return [
        Check(
            f"mAP: {setting} + {WORKS:g} < Adagrad",
            *(values, adagrad, "mAP", SCORES),
            high=-WORKS,
            superior=True,
        )
        for setting, values in found.items()
    ]


def c19(evidence: Evidence, suffix: str = "") -> list[Check]:
    """Best mean IU, mean accuracy and average."""
    runs, checks = _at(SEGMENTATION, suffix), []
    for what, column in (
        ("mean IU", "val_mean_iu"),
        ("mean accuracy", "val_mean_accuracy"),
        ("average", "val_average"),
    ):
        of = _average if column == "val_average" else mean_of_last(column)
        columns = counted(evidence, runs, of, ALL_BACKGROUND[column])
        checks += beats_each(columns, what, runs.task, SCORES, higher_is_better=True)
    return checks


def _average(run: Run) -> float:
    return float(np.mean([mean_of_last(column)(run) for column in SEGMENTATION_SCORES]))


def c20(evidence: Evidence, suffix: str = "") -> list[Check]:
    """Training curve nearest to Adagrad's of all; smallest fluctuation in validation."""
    runs = _at(SEGMENTATION, suffix)
    apart = {solver: _distances(evidence, runs, solver) for solver in runs.solvers[1:]}
    what = "distance of BPGrad's training curve from"
    checks = [
        Check(
            f"{what} Adagrad's < from {other}'s",
            *(apart["Adagrad"], apart[other], "distance of the training curves", FACTOR),
        )
        for other in apart
        if other != "Adagrad"
    ]
    columns = counted(evidence, runs, _fluctuation, math.inf)
    fluctuates = f"deviation of the validation objective, last {FLUCTUATION_EPOCHS} epochs,"
    return checks + beats_each(columns, fluctuates, runs.task, FACTOR)


def _fluctuation(run: Run) -> float:
    """The logarithm of the deviation; infinite where the objective is not, and the model broke."""
    with np.errstate(invalid="ignore"):  # inf − inf
        found = fluctuation("val_objective", FLUCTUATION_EPOCHS)(run)
    return math.inf if math.isnan(found) else math.log(found) if found else -math.inf


def _distances(evidence: Evidence, runs: Runs, other: str) -> dict[int, float]:
    """Root mean square difference of the logarithms of the objectives over all epochs, by seed."""
    first = runs.solvers[0]
    sides = [
        {run.seed: run for run in evidence.runs(runs.experiment, runs.task, solver) if ended(run)}
        for solver in (first, other)
    ]
    return {
        seed: distance(*(side[seed] for side in sides)) for seed in sides[0] if seed in sides[1]
    }


def distance(one: Run, other: Run) -> float:
    """Between the curves of two runs; infinite if one diverged."""
    if diverged(one) or diverged(other):
        return math.inf
    curves = [np.log(values_of(run, "train_objective")) for run in (one, other)]
    return float(np.sqrt(np.mean((curves[0] - curves[1]) ** 2)))


def _at(runs: Runs, suffix: str) -> Runs:
    return Runs(runs.experiment + suffix, runs.task, runs.solvers)


def _all(suffix: str) -> dict[str, tuple[str, tuple[Runs, ...], Checks]]:
    detection, segmentation = _at(DETECTION, suffix), _at(SEGMENTATION, suffix)
    every: dict[str, tuple[str, tuple[Runs, ...], Callable[..., list[Check]]]] = {
        "C17": (
            "means of the last 5 epochs: logarithm of the loss above Adam's; mAP within 0.5 points "
            "of Adam's (TOST); best or tied, to one decimal, on at least 11 classes and strictly "
            "best on at least 10",
            (detection,),
            c17,
        ),
        "C18": (
            "each of Adadelta's tuned settings stays more than 10 points of mAP below Adagrad",
            (
                Runs(detection.experiment, detection.task, ("Adagrad",)),
                Runs(ADADELTA + suffix, detection.task, ()),
            ),
            c18,
        ),
        "C19": (
            "means of the last 5 epochs: mean IU, mean accuracy and their average with pixel "
            "accuracy above each competitor's",
            (segmentation,),
            c19,
        ),
        "C20": (
            "the distance of BPGrad's training curve (root mean square of the logarithm, all "
            "epochs) is smallest from Adagrad's; standard deviation of the validation objective "
            "over the last 10 epochs below each competitor's",
            (segmentation,),
            c20,
        ),
    }
    mark = "reduced: " if suffix else ""
    return {
        name: (mark + text, needs, partial(check, suffix=suffix))
        for name, (text, needs, check) in every.items()
    }


CHECKS, REDUCED_CHECKS = _all(""), _all(REDUCED)
