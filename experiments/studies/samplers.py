"""Algorithm 1 against what a user would pick instead: evaluations and time to equal accuracy."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bpgrad.errors import ConfigError
from bpgrad.records.files import write_text
from experiments.studies import certifying, finding, write_meta
from experiments.studies.test_functions import all_functions

SEEDS = tuple(range(50))
CERTIFIED_SEEDS = (0, 1, 2)
FOUND, CERTIFIED = "runs.csv", "certificates.csv"
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
    _complete(folder / FOUND, FOUND_KEY, _find(seeds or SEEDS), finding.find)
    _complete(folder / CERTIFIED, CERTIFIED_KEY, _certify(), certifying.certify)
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


def _certify() -> Iterator[list[tuple[Any, ...]]]:
    for seed in CERTIFIED_SEEDS:
        for function in all_functions():
            for part in certifying.GAPS.get(function.dim, ()):
                yield [(function, part, method, seed) for method in certifying.CERTIFIERS]


def _complete(
    path: Path,
    key: list[str],
    groups: Iterator[list[tuple[Any, ...]]],
    compute: Callable[..., dict[str, Any]],
) -> None:
    """Add the missing rows to a table, and write it after each group."""
    rows: list[Any] = pd.read_csv(path).to_dict("records") if path.exists() else []
    known = {tuple(row[column] for column in key) for row in rows}
    for group in groups:
        missing = [cell for cell in group if (cell[0].label, *cell[1:]) not in known]
        for function, *others in missing:
            found = compute(function, *others)
            rows.append({**dict(zip(key, (function.label, *others), strict=True)), **found})
        if missing:
            write_text(path, _csv(pd.DataFrame(rows), "%.4g"))


def _csv(table: pd.DataFrame, digits: str) -> str:
    text = io.StringIO()
    table.to_csv(text, index=False, float_format=digits, lineterminator="\n")
    return text.getvalue()
