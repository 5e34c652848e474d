"""The report's sentences follow from verdicts and records."""

from dataclasses import replace
from pathlib import Path

from bpgrad.reporting.inference.verdicts import Leaning, Outcome, Verdict
from bpgrad.reporting.page.document import JudgedClaim
from experiments.engine.prose import about, made, seen
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


def test_the_paragraph_counts_a_run_once_and_unfinished_ones_as_planned(tmp_path: Path) -> None:
    adam, sgd = make_run(tmp_path, "Adam"), make_run(tmp_path, "SGD", done=1)
    text = made([compare(adam, sgd), compare(adam)], {})
    assert (
        "rests on 1 finished training run of 2 planned (MNIST: 1 run of 3 epochs with 1 seed)"
        in text
    )


def test_the_paragraph_does_not_lend_the_seeds_of_short_runs_to_long_ones(tmp_path: Path) -> None:
    short = [make_run(tmp_path, "Adam", seed) for seed in range(3)]
    text = made([compare(*short), compare(make_run(tmp_path, "SGD", epochs=50))], {})
    assert "(MNIST: 3 runs of 3 epochs with 3 seeds and 1 run of 50 epochs with 1 seed)" in text


def test_the_paragraph_gives_machines_commits_and_studies(tmp_path: Path) -> None:
    start = {"git_sha": "abc", "versions": {"torch": "2.15.0"}}
    text = made([compare(make_run(tmp_path, "Adam"))], {"Figure 5": [start]})
    assert "and on 1 study beside them." in text
    assert "on A CPU, 2 threads." in text
    assert "The code was at 1 commit, with torch 2.15.0" in text


def test_runs_of_another_size_are_not_passed_off_as_the_papers(tmp_path: Path) -> None:
    run, other = make_run(tmp_path, "Adam"), make_run(tmp_path, "SGD")
    assert "All have the paper's models and data" in made([compare(run, other)], {})
    run.config["scale"] = {"name": "reduced"}  # type: ignore[index]
    text = made([compare(run), compare(other)], {})
    assert "All but the reduced ones have the paper's models and data" in text
    assert "(MNIST (reduced): 1 run of 3 epochs with 1 seed; MNIST: 1 run of 3 epochs" in text
    assert "None of them have the paper's models and data" in made([compare(run)], {})


def test_the_reduced_scale_has_the_verdicts_of_that(tmp_path: Path) -> None:
    its = replace(CLAIMS[5], reduced=CLAIMS[1].verdict)
    assert its.at(True) is CLAIMS[1].verdict
    assert its.at(False) is CLAIMS[5].at(True) is CLAIMS[5].verdict
    assert its.held == "at reduced scale undecided: 2 of 2, 1 seed"
    assert replace(its, reduced=CLAIMS[5].verdict).held == CLAIMS[5].held == ""
    run = make_run(tmp_path, "Adam")
    run.config["scale"] = {"name": "reduced"}  # type: ignore[index]
    assert "At the end, on MNIST (reduced), " in about([compare(run)], "make table1-reduced")


def test_a_claim_judged_by_the_first_rules_is_marked() -> None:
    its = replace(CLAIMS[1], second=CLAIMS[5].verdict)
    assert its.held == "2 of 2, 1 seed, preliminary"
    assert replace(its, second=CLAIMS[1].verdict).held == CLAIMS[1].held
    assert not CLAIMS[1].held.endswith("preliminary")


def test_runs_that_chose_settings_are_named(tmp_path: Path) -> None:
    text = made([compare(make_run(tmp_path, "Adam"))], {}, {"Settings of X": 32})
    assert "32 runs beside them chose settings and stand in no table (Settings of X)." in text


def test_nothing_run_yet_is_said(tmp_path: Path) -> None:
    text = made([compare(make_run(tmp_path, "Adam", done=0))], {})
    assert text.startswith("This report rests on 0 finished training runs of 1 planned.")


def test_an_experiment_tells_the_claim_what_came_out_and_the_command(tmp_path: Path) -> None:
    runs = compare(make_run(tmp_path, "Adam", level=0.3), make_run(tmp_path, "e: odd", level=0.6))
    assert about([runs], "make figure7", "Figure 7").splitlines() == [
        "At the end, on MNIST, the lowest training objective is 0.1000 (Adam) and the lowest test "
        "top-1 error is 2.00 % (Adam); n = 1.",
        "Figure 7 of the paper prints no numbers, and its curves are not legible enough to be read "
        "off: what it says of them are the claims.",
        "`make figure7` runs what is missing of it and builds it again.",
    ]
    one = about([compare(make_run(tmp_path, "Adam", level=0.3))], "make x", "Table 1", True)
    assert "the training objective of Adam is 0.1000 and the test top-1 error of Adam" in one
    assert "legible" not in one


def test_what_has_been_seen_is_where_a_solver_stands(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, name, level=k) for k, name in enumerate(("Adam", "BPGrad", "SGD"), 1)
    ]
    text = seen(compare(*runs), "BPGrad")
    assert text.startswith("on MNIST, 3 solvers began with the same weights")
    assert (
        "The lowest test top-1 error is Adam's, 6.67 %; BPGrad's is 13.33, number 2 of 3." in text
    )
    assert text.endswith("With 1 seed none of this can be told from chance.")
    assert seen(compare(runs[0]), "Adam") == ""
    assert seen(compare(*runs), "Eve") == ""
