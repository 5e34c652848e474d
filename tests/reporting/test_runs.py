"""What is read of records, and which comparisons are refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from bpgrad.errors import RecordError
from bpgrad.records.run_record import RunRecord
from bpgrad.reporting.display.tables import as_markdown, notes
from bpgrad.reporting.runs import read_run
from tests.reporting.records import compare, make_record, make_run


def test_a_finished_run_has_all_its_rows(tmp_path: Path) -> None:
    run = make_run(tmp_path, "Adam", level=3.0)
    assert run.finished
    assert run.state == "finished"
    assert run.rows["train_objective"].tolist() == [3.0, 1.5, 1.0]
    assert run.rows["images_per_second"].tolist() == [100.0] * 3


def test_unfinished_runs_say_how_far_they_came(tmp_path: Path) -> None:
    cut = make_run(tmp_path, "Adam", done=2)
    diverged = make_run(tmp_path, "SGD", done=1, diverged={"epoch": 2, "iteration": 17})
    missing = read_run(RunRecord(tmp_path, tmp_path, "mnist/eve/seed0-0"), "Eve", 0)
    assert [run.finished for run in (cut, diverged, missing)] == [False] * 3
    assert [len(run.rows) for run in (cut, diverged, missing)] == [2, 1, 0]
    assert cut.state == "2 of 3 epochs done"
    assert diverged.state == "diverged at epoch 2, iteration 17"
    assert missing.state == "not run"


def test_a_row_that_a_killed_run_did_not_complete_is_left_out(tmp_path: Path) -> None:
    record = make_record(tmp_path, "Adam", done=2)
    record.cut_rows("timing.csv", 1)
    assert len(read_run(record, "Adam", 0).rows) == 1


def test_a_result_without_its_rows_is_refused(tmp_path: Path) -> None:
    record = make_record(tmp_path, "Adam")
    record.write_rows("metrics.csv", record.rows()[:2])
    with pytest.raises(RecordError, match=r"metrics.csv is damaged \(2 whole rows"):
        read_run(record, "Adam", 0)


@pytest.mark.parametrize("file", ["config.yaml", "meta.json"])
def test_rows_of_unknown_origin_are_refused(tmp_path: Path, file: str) -> None:
    record = make_record(tmp_path, "Adam")
    (record.directory / file).unlink()
    with pytest.raises(RecordError, match=rf"{file} is damaged \(missing"):
        read_run(record, "Adam", 0)


@pytest.mark.parametrize(
    ("key", "words"),
    [("initial_weights_sha256", "initial weights"), ("batch_order_sha256", "batch order")],
)
def test_what_runs_of_a_seed_must_share(tmp_path: Path, key: str, words: str) -> None:
    adam = make_run(tmp_path, "Adam")
    sgd = make_run(tmp_path, "SGD", **{key: "another"})
    with pytest.raises(RecordError, match=f"differ in {words}") as refused:
        compare(adam, sgd)
    assert str(adam.directory) in str(refused.value)
    assert str(sgd.directory) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_seeds_have_weights_and_orders_of_their_own(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, solver, seed) for seed in (0, 1) for solver in ("Adam", "SGD")]
    assert compare(*runs).solvers == ("Adam", "SGD")
    assert len(compare(*runs).finished("SGD")) == 2


def test_a_record_without_hashes_is_refused(tmp_path: Path) -> None:
    record = make_record(tmp_path, "Adam")
    record.write_meta({"starts": record.meta()["starts"]})
    with pytest.raises(RecordError, match="lacks initial_weights_sha256"):
        compare(read_run(record, "Adam", 0))


def test_mixed_precision_is_refused_whatever_the_seed(tmp_path: Path) -> None:
    runs = make_run(tmp_path, "Adam", 0), make_run(tmp_path, "SGD", 1, precision="bf16")
    with pytest.raises(RecordError, match=r"differ in precision \(fp32 and bf16\)"):
        compare(*runs)


def write_consumed(record: RunRecord, *hashes: str) -> None:
    rows = [{"epoch": epoch, "sha256": sha256} for epoch, sha256 in enumerate(hashes, 1)]
    record.write_rows("consumed.csv", rows)


def test_runs_of_a_seed_that_consumed_different_examples_are_refused(tmp_path: Path) -> None:
    one, other = make_record(tmp_path, "Adam"), make_record(tmp_path, "SGD")
    a, b, c, x = (letter * 64 for letter in "abcd")
    write_consumed(one, a, b, c)
    write_consumed(other, a, b, c)
    assert compare(read_run(one, "Adam", 0), read_run(other, "SGD", 0)).runs
    write_consumed(other, a, x, c)
    with pytest.raises(RecordError, match=r"differ in the examples of epoch 2 \(b{12} and d{12}\)"):
        compare(read_run(one, "Adam", 0), read_run(other, "SGD", 0))


def test_a_finished_run_that_is_not_finite_is_called_so(tmp_path: Path) -> None:
    record = make_record(tmp_path, "Adam")
    rows = record.rows()
    rows[-1]["val_objective"] = float("nan")
    record.write_rows("metrics.csv", rows)
    record.write_result({"epochs": 3, "val_objective": float("nan")})
    assert '"val_objective": null' in (record.directory / "result.json").read_text()
    run = read_run(record, "Adam", 0)
    assert run.finished
    assert run.state == "finished, not finite: val_objective"
    assert "Not finite: Adam, seed 0: val_objective." in list(notes(compare(run)))


def test_code_that_was_not_committed_is_told(tmp_path: Path) -> None:
    clean = make_run(tmp_path, "Adam")
    record = make_record(tmp_path, "SGD")
    start = record.meta()["starts"][0]
    record.write_meta(record.meta() | {"starts": [start, start | {"git_dirty": True}]})
    changed = read_run(record, "SGD", 0)
    assert not any("not committed" in note for note in notes(compare(clean)))
    assert "The code had changes that were not committed: SGD seed 0." in list(
        notes(compare(clean, changed))
    )


def test_labels_reach_the_markdown_as_they_are(tmp_path: Path) -> None:
    run = make_run(tmp_path, "sgd")
    shown = as_markdown("<script>|", [compare(replace(run, solver="a|b<script>\nc"))])
    assert "# &lt;script>\\|\n" in shown
    assert "| a\\|b&lt;script> c |" in shown
    assert "<script" not in shown
