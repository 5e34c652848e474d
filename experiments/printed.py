"""The numbers that the paper prints, as they stand beside ours in a table."""

from bpgrad.reporting.grid import Printed
from experiments.claims import paper_values


def printed(name: str) -> Printed:
    """The values of a result, "table1" for the paper's Table 1; none where the paper prints none.

    Results of another scale, or with settings other than those declared, have names of their own
    (see `experiments.runner.Plan`): no value of the paper stands beside them.
    """
    values = paper_values()
    values = values[values["table"].str.lower().str.replace(" ", "") == name]
    return {
        (row["task"], row["solver"], row["metric"]): float(row["value"])
        for row in values.to_dict("records")
    }
