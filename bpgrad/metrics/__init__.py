"""The quantities that judge a model: how each is shown, and how it is computed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How a quantity is shown: its title, its unit, and which direction is better.

    A `detail`, as the score of a single class, is in tables, but not in the line of an epoch. What
    is not `compared`, as a standard error, is better or worse of no solver.
    """

    title: str
    unit: str = ""
    higher_is_better: bool = False
    detail: bool = False
    compared: bool = True


# Tasks whose held-out examples, `val_*` in the records, are the data set's test set.
TESTED = frozenset({"digits", "mnist", "cifar10", "voc_detection"})


def phase_title(task: str, column: str) -> str:
    """Which examples a column of the records is of: training, test or validation."""
    if column.startswith(("train_", "fixed_")):
        return "training"
    return "test" if task in TESTED else "validation"


def short_phase(task: str, column: str) -> str:
    """The same where there is little room: train, test or val."""
    return {"training": "train", "validation": "val"}.get(title := phase_title(task, column), title)
