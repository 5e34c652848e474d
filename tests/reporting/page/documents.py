"""A report made up for the tests, with everything that a page can show."""

import base64
from pathlib import Path

from bpgrad.reporting.inference.verdicts import (
    Inequality,
    Property,
    decide,
    decide_properties,
    not_run,
)
from bpgrad.reporting.page.document import Document, JudgedClaim, Section
from tests.reporting.records import compare, make_run

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 5"><rect width="9" height="4"/></svg>'
)
ODD = 'Odd <script>alert("x")</script> & "quoted"'
STUDY = """\
Some **text** with a [link](tables/study.csv), `code`, <script>alert("x")</script> and a table:

| function | evaluations |
| -------- | ----------: |
| b        |         1000 |
| a        |           20 |
| c        |          300 |

![A study's picture](figures/study.png)
"""


def make_document(results: Path) -> Document:
    """The report, and the files of `results` that it shows."""
    for name in ("figure7", "figure7_small", "study"):
        for suffix, content in ((".svg", SVG.encode()), (".png", PNG)):
            path = results / "figures" / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    levels = {"Adam": 2.0, "BPGrad, μ = 0.9": 1.0, ODD: 3.0}
    several = compare(
        *(
            make_run(results, solver.partition(" ")[0], seed, level=level * (1 + 0.01 * seed))
            for solver, level in levels.items()
            for seed in range(3)
        )
    )
    for run, solver in zip(several.runs, [s for s in levels for _ in range(3)], strict=True):
        object.__setattr__(run, "solver", solver)
    one = compare(
        make_run(results, "Adam", task="cifar10", level=0.3),
        make_run(results, "SGD", task="cifar10", done=1),
        task="cifar10",
    )
    printed = {("mnist", "Adam", "val_top1_error"): 12.0}
    low, high = {0: 1.0, 1: 1.1, 2: 1.2}, {0: 2.0, 1: 2.2, 2: 2.3}
    verdicts = {
        "C1": decide([Inequality("A < B", low, high, "error")], range(3)),
        "C2": decide([Inequality("B < A", high, low, "error")], range(3)),
        "C3": decide([Inequality(f"{ODD} < A", low, high, "error")], range(9)),
        "C4": not_run("figure7 on mnist"),
        "C10": decide_properties([Property("falls", 0.25, True)]),
    }
    claims = tuple(
        JudgedClaim(id, f"claim {id} {ODD}", f"rule of {id}", verdict)
        for id, verdict in verdicts.items()
    )
    computed = ({"git_sha": "a" * 40, "time": "2026-01-02T03:04:05+00:00"},)
    sections = (
        Section("figure7", ODD, "Prose with x_i.", (several, one), printed, paper="Figure 7"),
        Section(
            "study",
            "A study",
            "",
            body=STUDY,
            records="studies/study/table.csv",
            computed=computed,
        ),
    )
    return Document(
        "The *lead*.",
        ("One finding.", "Another."),
        claims,
        sections,
        ("Table 1: `make table1`",),
        "How it was made.",
        "The note.",
        "figure7",
    )
