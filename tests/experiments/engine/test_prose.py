"""The report's sentences follow from verdicts and records."""

from pathlib import Path

from bpgrad.reporting.inference.verdicts import Leaning, Outcome, Verdict
from bpgrad.reporting.page.document import JudgedClaim
from experiments.engine.prose import about, opening, tally
from tests.reporting.records import compare, make_run


def claim(id: str, outcome: Outcome, favourable: int = 0, parts: int = 2) -> JudgedClaim:
    verdict = Verdict(outcome, "Because.", n=1, leaning=Leaning(favourable, parts))
    return JudgedClaim(id, f"words of {id}", "rule", verdict)


CLAIMS = [
    claim("C1", Outcome.REPRODUCED),
    claim("C2", Outcome.UNDECIDED, 2),
    claim("C3", Outcome.UNDECIDED, 1),
    claim("C4", Outcome.UNDECIDED, 0),
    claim("C5", Outcome.NOT_REPRODUCED),
    claim("C6", Outcome.NOT_RUN),
]


def test_the_tally_names_each_claim_once_with_the_leaning_of_undecided_ones() -> None:
    assert tally(CLAIMS) == (
        "reproduced: C1; not reproduced: C5; "
        "undecided: C2 (2 of 2 comparisons point its way), C3 (1 of 2), C4 (0 of 2); not run: C6"
    )


def test_the_opening_says_where_the_evidence_points(tmp_path: Path) -> None:
    text = opening([compare(make_run(tmp_path, "Adam"))], {}, CLAIMS)
    assert "Of the paper's 6 claims: 1 reproduced (C1), 1 not reproduced (C5), 3 undecided" in text
    assert (
        "the numbers point the claim's way in every comparison so far for C2, "
        "in some comparisons for C3 and in none for C4." in text
    )
    assert "With 1 seed no difference between solvers can be told from chance" in text


def test_the_opening_counts_a_run_once_and_unfinished_ones_as_planned(tmp_path: Path) -> None:
    adam, sgd = make_run(tmp_path, "Adam"), make_run(tmp_path, "SGD", done=1)
    text = opening([compare(adam, sgd), compare(adam)], {}, CLAIMS)
    assert (
        "rests on 1 finished training run of 2 planned (MNIST: 1 run of 3 epochs with 1 seed)"
        in text
    )


def test_the_opening_does_not_lend_the_seeds_of_short_runs_to_long_ones(tmp_path: Path) -> None:
    short = [make_run(tmp_path, "Adam", seed) for seed in range(3)]
    text = opening([compare(*short), compare(make_run(tmp_path, "SGD", epochs=50))], {}, CLAIMS)
    assert "(MNIST: 3 runs of 3 epochs with 3 seeds and 1 run of 50 epochs with 1 seed)" in text
    assert "With 1 seed no difference between solvers can be told from chance" in text


def test_the_opening_gives_machines_commits_and_studies(tmp_path: Path) -> None:
    start = {"git_sha": "abc", "versions": {"torch": "2.15.0"}}
    text = opening([compare(make_run(tmp_path, "Adam"))], {"Figure 5": [start]}, CLAIMS)
    assert "and on 1 study beside them." in text
    assert "on A CPU, 2 threads." in text
    assert "The code was at 1 commit, with torch 2.15.0" in text


def test_runs_of_another_size_are_not_passed_off_as_the_papers(tmp_path: Path) -> None:
    run = make_run(tmp_path, "Adam")
    run.config["scale"] = {"name": "reduced"}  # type: ignore[index]
    text = opening([compare(run)], {}, CLAIMS)
    assert "All have the paper's size" not in text
    assert "Their sizes are reduced; only paper is the paper's" in text


def test_with_three_seeds_nothing_is_said_about_too_few(tmp_path: Path) -> None:
    runs = compare(*(make_run(tmp_path, "Adam", seed) for seed in range(3)))
    assert "told from chance" not in opening([runs], {}, CLAIMS)


def test_nothing_run_yet_is_said(tmp_path: Path) -> None:
    text = opening([compare(make_run(tmp_path, "Adam", done=0))], {}, CLAIMS)
    assert text.startswith("This report rests on 0 finished training runs of 1 planned.")


def test_an_experiment_tells_the_claim_what_came_out_and_the_command(tmp_path: Path) -> None:
    runs = compare(make_run(tmp_path, "Adam", level=0.3), make_run(tmp_path, "BPGrad", level=0.6))
    assert about(CLAIMS[:1], [runs], "make figure7").splitlines() == [
        "The paper claims: words of C1 (C1).",
        "Reproduced: C1.",
        "On MNIST Adam ends with the lowest training objective (0.1000) and the lowest validation "
        "top-1 error (2.00 %).",
        "`make figure7` runs what is missing of it and builds it again.",
    ]
    one = about([], [compare(make_run(tmp_path, "Adam", level=0.3))], "make x")
    assert "On MNIST Adam ends with a training objective of 0.1000 and a validation" in one
    assert "claims" not in one
