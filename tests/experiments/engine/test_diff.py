"""python -m experiments diff: where two records part, and what went into them differently."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bpgrad.errors import RecordError
from bpgrad.records.run_record import RunRecord
from bpgrad.training.config import load
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train
from experiments.__main__ import main
from experiments.engine.diff import Parting, Side, compare, find, parting, relative
from tests.reporting.records import make_record

ITERATIONS = 5


def made(
    folder: Path, name: str, change: Callable[[list[np.ndarray]], object] = len, **meta: object
) -> RunRecord:
    """A run of 6 epochs; `change` alters the series (of objective and step size) before writing."""
    record = make_record(folder, name, epochs=6, **meta)
    rng = np.random.RandomState(0)
    series = [rng.random_sample((ITERATIONS, 2)).astype(np.float32) for _ in range(6)]
    change(series)
    rows = record.rows()
    for row, values in zip(rows, series, strict=True):
        row["iterations"] = row["epoch"] * ITERATIONS
        row["train_objective"] = float(values[:, 0].astype(np.float64).mean())
    record.write_rows("metrics.csv", rows)
    record.write_steps(
        {
            "columns": np.array(["objective", "step_size"]),
            **{f"epoch{k}": values for k, values in enumerate(series[:4], 1)},
        }
    )
    (record.checkpoints / "steps").mkdir(parents=True)
    for k, values in enumerate(series, 1):
        np.save(record.checkpoints / "steps" / f"epoch{k:04d}.npy", values)
    return record


def part(one: RunRecord, other: RunRecord) -> Parting | None:
    return parting(Side(one), Side(other))


def at(epoch: int, iteration: int, column: int, value: float) -> Callable[[list[np.ndarray]], None]:
    def change(series: list[np.ndarray]) -> None:
        series[epoch - 1][iteration - 1, column] = value

    return change


def test_the_same_numbers_are_identical(tmp_path: Path) -> None:
    one, other = made(tmp_path, "one"), made(tmp_path, "other")
    lines, same = compare(one, other)
    assert same
    assert lines[-1] == (
        "identical: the recorded values of 6 epochs, and of every iteration of 6 of them"
    )
    assert "what went in: the same configuration, code, machine and data" in lines


@pytest.mark.parametrize("epoch", [1, 3, 6])  # recorded whole, and only beside the checkpoint
@pytest.mark.parametrize("iteration", [1, 4])
def test_the_first_iteration_that_differs(tmp_path: Path, epoch: int, iteration: int) -> None:
    one = made(tmp_path, "one", at(epoch, iteration, 1, 8.0))

    def later_too(series: list[np.ndarray]) -> None:
        at(epoch, iteration, 1, 10.0)(series)
        at(epoch, 5, 0, 77.0)(series)

    found = part(one, made(tmp_path, "other", later_too))
    assert found is not None
    assert (found.epoch, found.iteration) == (epoch, iteration)
    assert found.overall == (epoch - 1) * ITERATIONS + iteration
    assert found.values == {"step_size": (8.0, 10.0)}
    assert relative(8.0, 10.0) == pytest.approx(0.2)


def test_nan_equals_nan_and_nothing_else(tmp_path: Path) -> None:
    one = made(tmp_path, "one", at(2, 2, 1, float("nan")))
    assert part(one, made(tmp_path, "other", at(2, 2, 1, float("nan")))) is None
    found = part(one, made(tmp_path, "third"))
    assert found is not None
    assert (found.epoch, found.iteration, list(found.values)) == (2, 2, ["step_size"])


def test_where_the_iterations_were_not_kept_the_epoch_is_named(tmp_path: Path) -> None:
    one, other = made(tmp_path, "one"), made(tmp_path, "other", at(5, 2, 0, 3.0))
    (other.checkpoints / "steps/epoch0005.npy").unlink()
    found = part(one, other)
    assert found is not None
    assert (found.epoch, found.iteration, list(found.values)) == (5, None, ["train_objective"])
    lines, same = compare(one, other)
    assert not same
    assert "the first difference is in epoch 5, whose iterations were not kept by both" in lines
    (other.directory / "steps.npz").unlink()
    assert part(one, other) == found


def test_validation_alone_may_differ(tmp_path: Path) -> None:
    one, other = made(tmp_path, "one"), made(tmp_path, "other")
    rows = other.rows()
    rows[1]["val_objective"] += 1e-9
    other.write_rows("metrics.csv", rows)
    found = part(one, other)
    assert found is not None
    assert (found.epoch, found.iteration, list(found.values)) == (2, None, ["val_objective"])


def test_final_weights_count_too(tmp_path: Path) -> None:
    one, other = made(tmp_path, "one"), made(tmp_path, "other")
    for record, digest in ((one, "aa"), (other, "bb")):
        record.write_result({"epochs": 6, "weights_sha256": digest})
    lines, same = compare(one, other)
    assert not same
    assert "final weights differ" in lines[-1]


def test_what_went_in_is_told(tmp_path: Path) -> None:
    one = made(tmp_path, "one", data_md5={"images": "1" * 32})
    other = made(tmp_path, "other", data_md5={"images": "2" * 32}, precision="bf16", device="cuda")
    meta = other.meta() | {"initial_weights_sha256": "another"}
    meta["starts"] = [
        {"machine": {"device": "cuda"}, "git_sha": "f" * 40, "versions": {"torch": "2"}},
        {"machine": {"device": "cpu"}, "git_sha": "f" * 40, "versions": {"torch": "3"}},
    ]
    other.write_meta(meta)
    lines, same = compare(one, other)
    assert same  # no recorded number differs
    words = [line.split() for line in lines]
    assert ["config", "precision", "fp32", "bf16"] in words
    assert ["torch", "absent", "2", "then", "3"] in words
    assert ["device", "cpu", "cuda", "then", "cpu"] in words
    assert ["commit", "absent", "f" * 12] in words
    assert ["data", "images", "(md5)", "1" * 12, "2" * 12] in words
    assert any(line.startswith("  initial weights (sha256)") for line in lines)
    assert not any("batch order" in line for line in lines)


def test_runs_of_different_length_are_compared_as_far_as_both_go(tmp_path: Path) -> None:
    one, other = made(tmp_path, "one"), made(tmp_path, "other")
    for file in ("metrics.csv", "timing.csv"):
        other.cut_rows(file, 2)
    (other.directory / "result.json").unlink()
    lines, same = compare(one, other)
    assert same
    assert lines[-1] == "A has 6 epochs, B has 2"
    (other.directory / "metrics.csv").unlink()
    with pytest.raises(RecordError, match="no epoch is recorded yet"):
        compare(one, other)


def test_a_run_is_found_by_directory_name_beginning_or_hash(tmp_path: Path) -> None:
    for solver in ("adam", "adagrad"):
        made(tmp_path, solver)
    results, checkpoints = tmp_path / "runs", tmp_path / "checkpoints"
    name = "mnist/adam/seed0-0"
    for text in (name, "mnist/adam", f"{results}/{name}", f"{results}/{name}/"):
        found = find(text, results, checkpoints)
        assert (found.name, found.directory) == (name, results / name)
        assert found.checkpoints == checkpoints / name
    with pytest.raises(RecordError, match=r"any of mnist/adagrad/seed0-0, mnist/adam/seed0-0"):
        find("mnist/ada", results, checkpoints)
    for nothing in ("mnist/eve", "", str(results)):
        with pytest.raises(RecordError, match="no run has this directory or name"):
            find(nothing, results, checkpoints)


def test_damaged_records_are_one_line(tmp_path: Path) -> None:
    one, other = made(tmp_path, "one"), made(tmp_path, "other")
    (other.directory / "steps.npz").write_bytes(b"PK nonsense")
    with pytest.raises(RecordError, match=r"steps.npz is damaged"):
        compare(one, other)


def test_the_command_on_real_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate that is halved from epoch 2 on shows in the second objective of that epoch."""
    roots = ["--results-root", f"{tmp_path}/runs", "--checkpoint-root", f"{tmp_path}/checkpoints"]
    names = []
    for change in ("null", "{2: 0.5}"):
        cfg = load(
            [
                *("scale=smoke", "scale.train_examples=160", "scale.val_examples=50", "threads=1"),
                *("solver=sgd", f"solver.lr_factors={change}"),
                f"results_root={tmp_path}/runs",
                f"checkpoint_root={tmp_path}/checkpoints",
            ]
        )
        train(cfg)
        names.append(run_name(cfg))
    capsys.readouterr()
    main(["diff", names[0], names[0], *roots])  # ends with status 0
    assert "\nidentical: " in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["diff", names[0].rpartition("-")[2], str(tmp_path / "runs" / names[1]), *roots])
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "config solver.lr_factors" in out
    assert "at epoch 2, iteration 2 (iteration 7 of the run)" in out
    rows = [line.split() for line in out.splitlines()]
    (objective,) = [row for row in rows if row[:1] == ["objective"]]
    series = [
        np.load(tmp_path / "checkpoints" / name / "steps/epoch0002.npy")[1, 0] for name in names
    ]
    assert [float(value) for value in objective[1:3]] == pytest.approx(series, rel=1e-8)
    with pytest.raises(RecordError, match="no run has") as refused:
        main(["diff", names[0], "mnist/none", *roots])
    assert refused.value.exit_code == 2
