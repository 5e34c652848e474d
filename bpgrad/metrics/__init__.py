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
