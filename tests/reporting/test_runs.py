"""What is read of records, and which comparisons are refused."""

from pathlib import Path

import pytest

from bpgrad.errors import RecordError
from bpgrad.records.run_record import RunRecord
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
    record.write_rows("timing.csv", record.rows("timing.csv")[:1])
    assert len(read_run(record, "Adam", 0).rows) == 1


def test_a_result_without_its_rows_is_refused(tmp_path: Path) -> None:
    record = make_record(tmp_path, "Adam")
    record.write_rows("metrics.csv", record.rows()[:2])
    with pytest.raises(RecordError, match=r"result.json is of epoch 3 but 2 are recorded"):
        read_run(record, "Adam", 0)


@pytest.mark.parametrize("file", ["config.yaml", "meta.json"])
def test_rows_of_unknown_origin_are_refused(tmp_path: Path, file: str) -> None:
    record = make_record(tmp_path, "Adam")
    (record.directory / file).unlink()
    with pytest.raises(RecordError, match=r"config.yaml or meta.json is missing"):
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


def test_runs_of_a_seed_that_consumed_different_examples_are_refused(tmp_path: Path) -> None:
    one, other = make_record(tmp_path, "Adam"), make_record(tmp_path, "SGD")
    one.write_consumed(["a", "b", "c"])
    other.write_consumed(["a", "b"])
    assert compare(read_run(one, "Adam", 0), read_run(other, "SGD", 0)).runs
    other.write_consumed(["a", "x"])
    with pytest.raises(RecordError, match=r"differ in the examples of epoch 2 \(b and x\)"):
        compare(read_run(one, "Adam", 0), read_run(other, "SGD", 0))
