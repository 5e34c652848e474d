"""What the lines, dots and bands of a figure are, in words."""

from collections.abc import Sequence

from bpgrad.reporting.runs import Comparison

DEFINED = {
    "certificate": "Line: the median of ‖g‖/L in every epoch; band: from the least to the greatest "
    "of its steps. Above 1 the gradient is steeper than L.",
    "variants": "Dots: the seeds, at the last epoch; grey line: the mean of the first variant.",
    "sweep": "Means at the last epoch, a curve for each solver over its one setting, relative to "
    "the one in the middle; of L the inverse, so that to the right steps get longer for all.",
}
STEPS = "Dots: every iteration; line: the median of each hundredth of them."


def caption(shows: str, comparisons: Sequence[Comparison]) -> str:
    """The caption of an experiment's figure, with how many seeds it is of."""
    seeds = sorted({run.seed for one in comparisons for run in one.runs if run.finished})
    if shows in ("variants", "sweep"):
        words, last = DEFINED[shows], max((one.averaged for one in comparisons), default=1)
        if last > 1:
            words = words.replace("at the last epoch", f"over the last {last} epochs")
        return f"{words} {_count(seeds)}"
    if shows == "table":
        return _count(seeds)
    if shows == "epochs":
        band = "Line: the mean; band: from the smallest to the largest of the seeds. "
        return f"{band if len(seeds) > 1 else ''}{_count(seeds)}"
    which = f"Seed {seeds[0]}, one of {len(seeds)}." if len(seeds) > 1 else _count(seeds)
    return f"{DEFINED.get(shows, STEPS)} {which}"


def _count(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}."
