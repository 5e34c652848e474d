"""Reproduce a table or figure: python -m experiments NAME (see --help)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bpgrad.suite import exit_without
from bpgrad.training.startup import begin

if __name__ == "__main__":
    begin()
    exit_without("experiments", "hydra", "markdown_it", "matplotlib", "pandas", "rich", "yaml")

from bpgrad.training.cli import run_command
from experiments.engine import command
from experiments.engine.suite import Suite

if TYPE_CHECKING:
    from experiments.engine.claim import Claim

FOLDER = Path(__file__).parent


def claims() -> Sequence[Claim]:
    """The paper's claims; with them pandas and SciPy are imported."""
    from experiments.claims import CLAIMS

    return CLAIMS


SUITE = Suite(FOLDER, FOLDER / "paper_values.csv", "experiments.studies", claims)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    command.main(SUITE, arguments)


if __name__ == "__main__":
    run_command(main)
