"""What the engine runs, shows and judges; all of it is handed to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bpgrad.reporting.page.document import JudgedClaim
    from bpgrad.reporting.runs import Comparison
    from experiments.engine.claim import Claim


@dataclass(frozen=True)
class Suite:
    """The experiments, studies and claims of a paper.

    `folder` holds the declarations, a YAML file each, and `paper_values` is the CSV file of the
    numbers that the paper prints. `studies` is the package with a module for each study, and
    `claims` gives the claims: both are imported only where they are needed.
    `lead` says what is replicated, and `findings` what was found, from the comparisons by
    experiment and task and the judged claims: what the report begins with. `small` is the
    experiment whose figure stands beside them, with the solver `highlighted`.
    """

    folder: Path
    paper_values: Path
    studies: str
    claims: Callable[[], Sequence[Claim]]
    lead: Callable[[], str]
    findings: Callable[[Mapping[tuple[str, str], Comparison], Sequence[JudgedClaim]], Sequence[str]]
    small: str
    highlighted: str
