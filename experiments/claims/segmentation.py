"""C19 and C20: segmentation on Pascal VOC (Table 3, Figure 10)."""

from collections.abc import Mapping

from bpgrad.reporting.inference.verdicts import Verdict, decide, lower
from experiments.claims.common import COMPETITIVE, COMPETITORS, OBJECTIVE
from experiments.engine.checks import average, beats_all, best_other, fluctuation, last
from experiments.engine.claim import Claim, Evidence, Of, Runs

# Thresholds of the reference.
FLUCTUATION_EPOCHS = 10

SEGMENTATION_SCORES = ("val_mean_iu", "val_pixel_accuracy", "val_mean_accuracy")
DERIVED: Mapping[str, Of] = {"val_average": average(*SEGMENTATION_SCORES)}  # not in the records


SEGMENTATION = Runs("table3", "voc_segmentation", ("BPGrad", *COMPETITORS))


def c19(evidence: Evidence) -> Verdict:
    """Best mean IU, mean accuracy and average; another solver has the best pixel accuracy."""
    inequalities = []
    for what, of in (
        ("mean IU", last("val_mean_iu")),
        ("mean accuracy", last("val_mean_accuracy")),
        ("average", DERIVED["val_average"]),
    ):
        inequalities += beats_all(evidence, SEGMENTATION, what, of, higher_is_better=True)
    columns = evidence.columns(SEGMENTATION, last("val_pixel_accuracy"))
    best = best_other(columns, higher_is_better=True)
    text, family = f"pixel accuracy: BPGrad < {best}", evidence.family(SEGMENTATION)
    inequalities.append(
        lower(text, columns["BPGrad"], columns[best], "pixel accuracy", family=family)
    )
    return decide(inequalities, evidence.seeds["table3"])


def c20(evidence: Evidence) -> Verdict:
    """Final training objective within 1.2 times Adagrad's, either way; smallest fluctuation."""
    columns, what = evidence.columns(SEGMENTATION, OBJECTIVE), "training objective"
    one, other, factor = columns["BPGrad"], columns["Adagrad"], 1 / COMPETITIVE
    family = evidence.family(SEGMENTATION)
    of = fluctuation("val_objective", FLUCTUATION_EPOCHS)
    fluctuates = f"deviation of the validation objective, last {FLUCTUATION_EPOCHS} epochs,"
    inequalities = [
        lower(
            f"{what}: {left} / {COMPETITIVE:g} < {right}",
            *(values, others, what),
            factor=factor,
            family=family,
        )
        for left, right, values, others in (
            ("BPGrad", "Adagrad", one, other),
            ("Adagrad", "BPGrad", other, one),
        )
    ]
    inequalities += beats_all(evidence, SEGMENTATION, fluctuates, of)
    return decide(inequalities, evidence.seeds["table3"])


CLAIMS = (
    Claim(
        "C19",
        "in segmentation BPGrad is the best in mean IU, mean accuracy and average, not in pixel "
        "accuracy",
        "higher than each competitor's in the three; pixel accuracy below the best competitor's",
        (SEGMENTATION,),
        c19,
    ),
    Claim(
        "C20",
        "in segmentation BPGrad's training curve is like Adagrad's, and it fluctuates least on the "
        "validation set",
        "final objective within 1.2 times Adagrad's, either way; smaller standard deviation of the "
        "validation objective over the last 10 epochs than each competitor's",
        (SEGMENTATION,),
        c20,
    ),
)
