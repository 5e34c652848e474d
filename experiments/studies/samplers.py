"""Algorithm 1 against what a user would pick instead: evaluations and time to equal accuracy."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bpgrad.errors import ConfigError
from bpgrad.records.files import write_text
from bpgrad.reporting.display import curves
from experiments.engine.studies import write_meta
from experiments.studies import certifying, comparison, finding
from experiments.studies.test_functions import all_functions

SEEDS = tuple(range(50))
CERTIFIED_SEEDS = (0, 1, 2)
FOUND, WITHOUT, CERTIFIED = "runs.csv", "without_gradients.csv", "certificates.csv"
FOUND_KEY = ["function", "method", "seed"]
CERTIFIED_KEY = ["function", "part", "method", "seed"]


def run(folder: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = ()) -> None:
    """Compute the runs that are missing in ``folder``; saved after each function and seed.

    The methods take turns, so that what else the machine does falls on all of them alike.

    Raises:
        ConfigError: for overrides: the study has no settings.
    """
    if overrides:
        raise ConfigError(f"samplers has no settings, unlike {' '.join(overrides)}")
    found = _complete(folder / FOUND, FOUND_KEY, _find(seeds or SEEDS), finding.find)
    without = _complete(folder / WITHOUT, FOUND_KEY, _without(seeds or SEEDS), finding.find)
    certified = _complete(folder / CERTIFIED, CERTIFIED_KEY, _certify(), certifying.certify)
    if found or without or certified:
        write_meta(folder)


def _find(seeds: Sequence[int]) -> Iterator[list[tuple[Any, ...]]]:
    for seed in seeds:
        for function in all_functions():
            once = seed == seeds[0]
            yield [
                (function, method, seed)
                for method in finding.FINDERS
                if once or method not in finding.DETERMINISTIC
            ]


def _without(seeds: Sequence[int]) -> Iterator[list[tuple[Any, ...]]]:
    for seed in seeds:
        for function in all_functions():
            yield [(function, finding.WITHOUT, seed)]


def _certify() -> Iterator[list[tuple[Any, ...]]]:
    for seed in CERTIFIED_SEEDS:
        for function in all_functions():
            for part in certifying.GAPS.get(function.dim, ()):
                if seed == CERTIFIED_SEEDS[0] or (function.label, part) not in certifying.ONCE:
                    yield [(function, part, method, seed) for method in certifying.CERTIFIERS]


def _complete(
    path: Path,
    key: list[str],
    groups: Iterator[list[tuple[Any, ...]]],
    compute: Callable[..., dict[str, Any]],
) -> int:
    """Add the missing rows to a table, and write it after each group; how many there were."""
    rows: list[Any] = pd.read_csv(path).to_dict("records") if path.exists() else []
    known = {tuple(row[column] for column in key) for row in rows}
    before = len(rows)
    for group in groups:
        missing = [cell for cell in group if (cell[0].label, *cell[1:]) not in known]
        for function, *others in missing:
            found = compute(function, *others)
            rows.append({**dict(zip(key, (function.label, *others), strict=True)), **found})
        if missing:
            write_text(path, _csv(pd.DataFrame(rows), "%.4g"))
    return len(rows) - before


def _csv(table: pd.DataFrame, digits: str) -> str:
    text = io.StringIO()
    table.to_csv(text, index=False, float_format=digits, lineterminator="\n")
    return text.getvalue()


def evidence(folder: Path) -> dict[str, pd.DataFrame]:
    """Table "samplers": median evaluations to 99 %, of Algorithm 1 and of AdaLIPO, by function.

    An evaluation of the gradient counts as one of the function. Runs that never got there count
    with the limit. Table "gradients": the same with gradients and without (Algorithm 1), to each
    accuracy, by family of functions; once all runs without are there, as a part decides nothing.
    """
    found = pd.read_csv(folder / FOUND)
    medians = _medians(found)
    columns = {"gradient": medians[comparison.GRADIENT], "uniform": medians[comparison.UNIFORM]}
    tables = {"samplers": pd.DataFrame(columns).rename_axis("function").reset_index()}
    if (folder / WITHOUT).exists():
        ours, without = found[found["method"] == comparison.GRADIENT], pd.read_csv(folder / WITHOUT)
        if len(without.merge(ours, on=["function", "seed"])) == len(ours):
            tables["gradients"] = with_and_without(ours, without)
    return tables


def with_and_without(ours: pd.DataFrame, without: pd.DataFrame) -> pd.DataFrame:
    """Median evaluations of both: a row a function and accuracy, with the function's family."""
    rows = []
    for function in without["function"].unique():
        for accuracy in finding.ACCURACIES:
            column = f"to_{100 * accuracy:.0f}"
            medians = [
                found.loc[found["function"] == function, column].map(finding.within).median()
                for found in (ours, without)
            ]
            family = function.partition(", D = ")[0]
            rows.append((family, round(100 * accuracy), *medians))
    return pd.DataFrame(rows, columns=["family", "accuracy", "with_gradients", "without"])


def show(folder: Path, figures: Path, tables: Path) -> str:
    """Write the tables and the figure; the text about them."""
    found = pd.read_csv(folder / FOUND)
    certified = pd.read_csv(folder / CERTIFIED)
    medians = _medians(found)
    written = {
        "samplers": comparison.success(found),
        "samplers_evaluations": comparison.evaluations(found, medians),
        "samplers_certificates": comparison.certificates(certified),
    }
    for name, table in written.items():
        write_text(tables / f"{name}.csv", _csv(table, "%.4g"))
        write_text(tables / f"{name}.md", comparison.markdown(table))
        write_text(tables / f"{name}.tex", table.to_latex(index=False, escape=True))
    figure = comparison.draw(medians)
    for suffix in (".svg", ".png"):
        curves.save(figure, figures / f"samplers{suffix}")
    return "\n\n".join(
        (
            comparison.setting(found),
            "**Percentage of runs that got within 1 % of the range** "
            "([within 10, 5 and 1 %](tables/samplers.csv)).",
            comparison.markdown(comparison.success(found, finding.ACCURACIES[-1:])),
            comparison.outcome(medians),
            "**Median evaluations to within 1 % of the range, and median CPU time of a run (ms).**",
            comparison.markdown(written["samplers_evaluations"]),
            "![Median evaluations to within 1 % of the range](figures/samplers.png)",
            comparison.certified_outcome(certified),
            comparison.markdown(written["samplers_certificates"]),
        )
    )


def _medians(found: pd.DataFrame) -> pd.DataFrame:
    """Median evaluations to 99 %, functions × methods in the order of the study."""
    spent = found.assign(to_99=found["to_99"].fillna(finding.MOST_EVALUATIONS))
    medians = spent.groupby(["function", "method"])["to_99"].median().unstack("method")
    return comparison.ordered(medians)
