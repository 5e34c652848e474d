"""Reproduce a table or figure: python -m experiments NAME (see --help)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bpgrad.startup import begin
from bpgrad.suite import exit_without

if __name__ == "__main__":
    begin()
    exit_without("experiments", "hydra", "markdown_it", "matplotlib", "pandas", "rich", "yaml")

from bpgrad.training.cli import run_command
from experiments.engine import command
from experiments.engine.suite import Suite

if TYPE_CHECKING:
    from bpgrad.reporting.page.document import JudgedClaim
    from bpgrad.reporting.runs import Comparison
    from experiments.engine.claim import Claim

FOLDER = Path(__file__).parent


def claims() -> Sequence[Claim]:
    """The paper's claims; with them pandas and SciPy are imported."""
    from experiments.claims import CLAIMS

    return CLAIMS


def lead() -> str:
    """What the report is about."""
    from experiments.findings import LEAD

    return LEAD


def findings(
    comparisons: Mapping[tuple[str, str], Comparison], claims: Sequence[JudgedClaim]
) -> Sequence[str]:
    """What was found, in some sentences."""
    from experiments.findings import findings as found

    return found(comparisons, claims)


SUITE = Suite(
    FOLDER,
    FOLDER / "paper_values.csv",
    "experiments.studies",
    claims,
    lead,
    findings,
    small="figure7",
    highlighted="BPGrad, μ = 0.9",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    command.main(SUITE, arguments)


if __name__ == "__main__":
    run_command(main)
