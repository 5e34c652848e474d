"""Today's verdicts by the first rules stay as they are: they are about seeds that are recorded."""

from pathlib import Path

import pytest

from experiments.__main__ import SUITE, main
from experiments.engine import report

#: What results/README.md said of the seeds seen before the second rules were registered.
FIRST = {
    "reproduced": "C4 C5",
    "not reproduced": "C2 C6 C7 C8 C9",
    "undecided": "C3 C10 C11 C12 C13 C14 C15 C21",
    "not run": "C1 C16 C17 C18 C19 C20",
}
#: n; of C2 it counts functions, and the theorems have been tried on more of them since.
SEEDS = {"C1": 1, "C2": 232, "C3": 16, "C4": 1, "C5": 1, "C6": 3, "C7": 1, "C8": 1, "C9": 3}


@pytest.mark.slow
def test_the_first_verdicts_are_those_of_the_seen_seeds_and_fit_one_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the committed records, read once: runs of other seeds change nothing by these rules."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("COLUMNS", "100")
    findings = report.read(SUITE)
    judged = report.judge(SUITE.claims(), findings)
    found: dict[str, list[str]] = {}
    for claim in judged:
        found.setdefault(str(claim.verdict.outcome), []).append(claim.id)
        n = SEEDS.get(claim.id, 0 if claim.id in FIRST["not run"].split() else 1)
        assert claim.verdict.n == n
        assert set(claim.verdicts) >= {"first", "second"}
    assert {outcome: " ".join(ids) for outcome, ids in found.items()} == FIRST
    # Nothing that had been seen is looked at by the second rules.
    for (experiment, _), comparison in findings.unseen.comparisons.items():
        seeds = {run.seed for run in comparison.runs}
        assert seeds <= set(range(1, 9)), experiment
        assert not seeds & {0, *((1, 2) if experiment in ("figure4", "figure6") else ())}

    monkeypatch.setattr(report, "read", lambda suite: findings)
    main(["verdict"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    assert all(len(line) <= 100 for line in lines)
    names = [line.split()[0] for line in lines if line.startswith("C")]
    assert names == [claim.id for claim in judged]
    main(["verdict", "-v"])
    why = capsys.readouterr().out
    assert "second, reduced: – not run Not run: needs table1-reduced on imagenette" in why
