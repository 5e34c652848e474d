"""The numbers that the paper prints, as they stand beside ours in a table."""

from pathlib import Path

import pandas as pd

from bpgrad.reporting.display.grid import Printed


def paper_values(path: Path) -> pd.DataFrame:
    """The values that the paper prints: a row a number, `metric` as the records name it.

    Columns: table, task, solver, metric, value and tolerance (of that unit), unit, source.
    """
    return pd.read_csv(path)


def printed(path: Path, name: str) -> Printed:
    """The values of a result, "table1" for the paper's Table 1; none where the paper prints none.

    `path` is the file of all values.
    Results of another scale, or with settings other than those declared, have names of their own
    (see `experiments.engine.runner.Plan`): no value of the paper stands beside them.
    """
    values = paper_values(path)
    values = values[values["table"].str.lower().str.replace(" ", "") == name]
    return {
        (row["task"], row["solver"], row["metric"]): float(row["value"])
        for row in values.to_dict("records")
    }
