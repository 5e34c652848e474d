"""--dry-run: what would run, and how long that takes by the records."""

from dataclasses import replace
from pathlib import Path

import pytest

from bpgrad.training import trainer
from experiments.__main__ import SUITE, main
from experiments.engine import declaration, runner
from experiments.engine.forecast import duration, forecast, lines
from tests.reporting.records import make_record

DECLARATION = """\
title: A comparison
seeds: [0]
tasks: [digits]
solvers:
  - {label: SGD, set: [solver=sgd]}
  - {label: BPGrad, set: [solver=bpgrad]}
  - {label: Adam, set: [solver=adam]}
  - {label: Wild, set: [solver=sgd, solver.lr=1e30]}
  - {label: SGD once more, set: [solver=sgd]}
"""
# Of a made-up record of three epochs: the median one has 400 images in 4 seconds.
IMAGES, SECONDS = 400, 4.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with an experiment called mine, and the records to come in results/runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.__main__.SUITE", replace(SUITE, folder=tmp_path))
    (tmp_path / "mine.yaml").write_text(DECLARATION, encoding="utf-8")
    monkeypatch.setattr(trainer, "train", lambda cfg: pytest.fail("trained"))
    return tmp_path


def prepare(*overrides: str, scale: str = "paper") -> runner.Plan:
    mine = declaration.load(Path("mine.yaml"))  # in the current folder, see `folder`
    assert isinstance(mine, declaration.Experiment)
    return runner.prepare(mine, scale=scale, overrides=overrides)


def record(folder: Path, label: str, **options: object) -> None:
    """Make up a record of a run, as far as it has come."""
    cfg = next(cfg for run, cfg in prepare().runs if run.solver == label)
    made = make_record(folder / "made", "x", task="digits", **options)  # type: ignore[arg-type]
    place = runner.record_of(cfg).directory
    place.parent.mkdir(parents=True, exist_ok=True)
    made.directory.rename(place)


def checkpoint(label: str) -> None:
    cfg = next(cfg for run, cfg in prepare().runs if run.solver == label)
    path = runner.record_of(cfg).checkpoints / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    path.touch()


def by_label(plan: runner.Plan) -> dict[str, tuple[str, float | None]]:
    return {step.run.solver: (step.state, step.seconds) for step in forecast(plan.runs)}


def test_without_records_there_is_no_rate(folder: Path) -> None:
    assert by_label(prepare()) == {
        **dict.fromkeys(("SGD", "BPGrad", "Adam", "Wild"), ("new", None)),
        "SGD once more": ("finished", 0.0),
    }
    assert "in all" not in "\n".join(lines("mine", prepare().runs))


def test_rates_are_of_the_same_solver_or_else_of_the_same_task(folder: Path) -> None:
    record(folder, "SGD")
    record(folder, "BPGrad", epochs=5)  # its median epoch has 600 images in 6 seconds: the same
    found = forecast(prepare().runs)
    assert {step.run.solver: step.state for step in found} == {
        "SGD": "finished",
        "BPGrad": "finished",
        "Adam": "new",
        "Wild": "new",
        "SGD once more": "finished",
    }
    rates = {step.run.solver: {rate.solver for rate in step.rates} for step in found if step.rates}
    assert rates == {"Adam": {"sgd", "bpgrad"}, "Wild": {"sgd"}}


def test_the_time_is_epochs_times_images_by_the_rate(folder: Path) -> None:
    record(folder, "SGD")
    assert by_label(prepare())["Adam"] == ("new", pytest.approx(20 * SECONDS))
    short = prepare("epochs=7", "scale.train_examples=100")
    assert by_label(short)["Adam"] == ("new", pytest.approx(7 * SECONDS / 4))
    # A larger part than there is does not take longer than all of it.
    assert by_label(prepare("epochs=7", "scale.train_examples=1000"))["Adam"] == (
        "new",
        pytest.approx(7 * SECONDS),
    )


def test_a_limit_above_the_whole_set_was_none(folder: Path) -> None:
    record(folder, "SGD")  # 400 images an epoch
    cfg = next(cfg for run, cfg in prepare().runs if run.solver == "SGD")
    with (runner.record_of(cfg).directory / "config.yaml").open("a", encoding="utf-8") as file:
        file.write("scale: {train_examples: 10000}\n")
    again = prepare("epochs=7", "scale.train_examples=10000")
    assert by_label(again)["Adam"] == ("new", pytest.approx(7 * SECONDS))


def test_of_a_cut_run_what_is_left_counts(folder: Path) -> None:
    record(folder, "SGD")
    record(folder, "Adam", epochs=20, done=3)
    adam = next(step for step in forecast(prepare().runs) if step.run.solver == "Adam")
    assert (adam.state, adam.seconds) == ("new", pytest.approx(20 * SECONDS))
    assert adam.remark == "3 of 20 epochs done, but the checkpoint is not here"
    checkpoint("Adam")
    adam = next(step for step in forecast(prepare().runs) if step.run.solver == "Adam")
    assert (adam.state, adam.seconds) == ("resume", pytest.approx(17 * SECONDS))
    assert adam.remark == "3 of 20 epochs done"


def test_a_run_that_diverged_is_not_done_again_unless_asked(folder: Path) -> None:
    record(folder, "Wild", done=1, diverged={"epoch": 2, "iteration": 9})
    wild = next(step for step in forecast(prepare().runs) if step.run.solver == "Wild")
    assert (wild.state, wild.seconds) == ("diverged", 0)
    assert wild.remark == "diverged at epoch 2, iteration 9; rerun=true repeats it"
    assert by_label(prepare("rerun=true"))["Wild"][0] == "new"


def test_rates_of_the_device_at_hand_go_first(folder: Path) -> None:
    record(folder, "SGD", device="cuda")
    assert by_label(prepare("device=cpu"))["Adam"][1] == pytest.approx(20 * SECONDS)
    record(folder, "BPGrad", device="cpu")
    adam = next(step for step in forecast(prepare("device=cpu").runs) if step.run.solver == "Adam")
    assert {rate.device for rate in adam.rates} == {"cpu"}


def test_the_command_says_it_and_trains_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(folder, "SGD")
    record(folder, "Wild", done=1, diverged={"epoch": 2, "iteration": 9})
    before = sorted(folder.rglob("*"))
    main(["mine", "--dry-run", "--jobs", "2"])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "mine: 2 of 5 runs to do; nothing is run now"
    assert out[1:4] == [
        "in all 3 min; 2 side by side 80 s, if none slows down",
        "at the fastest rates of the records, measured on: A CPU, 2 threads",
        "where a solver has no record of the task, at the rate of the others",
    ]
    assert out[4].startswith("  finished  digits  SGD  seed 0 ")
    assert "  digits/sgd/seed0-" in out[4]
    assert out[5].startswith("  new       digits  BPGrad  seed 0 ")
    assert "  80 s  digits/bpgrad/seed0-" in out[5]
    assert out[7].endswith("  (diverged at epoch 2, iteration 9; rerun=true repeats it)")
    assert len(out) == 9
    assert sorted(folder.rglob("*")) == before


def test_what_waits_for_something_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.yaml").write_text(f"needs: the moon\n{DECLARATION}")
    (folder / "toy.yaml").write_text("{title: A toy, study: figure1}")
    main(["mine", "--dry-run"])
    main(["toy", "--dry-run"])
    assert capsys.readouterr().out.splitlines() == [
        "mine: none of 5 runs can start; it needs the moon",
        "toy would be computed into results/studies/figure1; no rate is measured of studies",
    ]


def test_durations() -> None:
    assert [duration(s) for s in (0, 119.4, 119.6, 3560, 3600, 7500)] == [
        *("0 s", "119 s", "2 min", "59 min", "1 h 00 min", "2 h 05 min")
    ]
