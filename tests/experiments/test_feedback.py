"""The decisive experiment: its stages from made-up results, its answers, and all of it in small."""

import csv
import json
import math
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bpgrad.errors import BPGradError, ConfigError, Interrupted, RecordError
from bpgrad.training.identity import run_name
from experiments.engine import declaration, runner, studies
from experiments.studies import feedback, staged
from experiments.studies import feedback_answers as answers
from experiments.studies.feedback import (
    ADAMW,
    ARMS,
    BPGRAD,
    CONSTANT,
    COSINE,
    REPLAY,
    SEEDS,
    Cell,
    choice,
    planned,
    ready,
)
from experiments.studies.feedback_answers import DIVERGED, Outcome

ROOT = Path(__file__).parents[2]

Result = Callable[[Cell], Outcome]


def outcome(error: float, objective: float = 1.0) -> Outcome:
    return Outcome(error, 0.0, error, math.log(objective))


def best_at(position: int) -> Result:
    return lambda cell: outcome(20.0 + abs(cell.position - position))


def stages(result: Result, seeds: Sequence[int] = SEEDS) -> list[list[Cell]]:
    """What runs, one batch after the other."""
    found: dict[Cell, Outcome] = {}
    batches = []
    while batch := ready(found, seeds, noisy=False):
        batches.append(batch)
        found |= {cell: result(cell) for cell in batch}
    return batches


def test_the_arms_are_those_registered() -> None:
    first, last = ({arm.name: arm.words(position) for arm in ARMS} for position in (0, 4))
    assert len(ARMS) == 9
    assert (first["BPGrad"], last["BPGrad"]) == ("L = 12.5", "L = 200")
    assert CONSTANT.setting(2)["lr"] == pytest.approx(0.9 * math.log(10) / 50 / 4, rel=1e-5)
    assert COSINE.setting(4)["lr"] == pytest.approx(0.9 * math.log(10) / 200, rel=1e-5)
    runs = feedback.Runs(Path("results/studies/feedback"), [])
    for arm in ARMS:
        cfg = runs.config(Cell(arm, 0, 3, noisy=True))
        assert (cfg.task["name"], cfg.epochs, cfg.seed) == ("cifar10", 30, 3)
        judged = {key: cfg.task[key] for key in ("holdout", "judge_test", "label_noise")}
        assert judged == {"holdout": 0.1, "judge_test": True, "label_noise": 0.1}
        if arm.symbol != "lr":
            kept = [cfg.solver[key] for key in ("momentum", "weight_decay", "variant")]
            assert kept == [0.9, 5e-4, "paper"]
    declared = declaration.load(ROOT / "experiments" / "feedback.yaml")
    assert isinstance(declared, declaration.Study)
    assert declared.seeds == SEEDS


def test_a_replay_takes_the_steps_of_the_next_seed() -> None:
    sources = {seed: Cell(REPLAY, 3, seed, noisy=True).source for seed in SEEDS}
    assert {seed: source.seed for seed, source in sources.items()} == {1: 2, 2: 3, 3: 1}
    assert {(s.arm, s.position, s.noisy) for s in sources.values()} == {(BPGRAD, 3, True)}
    runs = feedback.Runs(Path("results/studies/feedback"), [])
    source = runs.config(sources[3])
    leaf = run_name(source).rpartition("/")[2]
    assert leaf.startswith("seed1-")
    given = runs.config(Cell(REPLAY, 3, 3, noisy=True)).solver["replay"]
    assert given == f"results/studies/feedback/eta/{leaf}.npy"


def test_all_settings_with_the_first_seed_come_first() -> None:
    first, second, *others = stages(best_at(2))
    expected = {Cell(arm, k, 1, False) for arm in ARMS for k in range(5) if arm is not REPLAY}
    assert set(first) == expected | {Cell(BPGRAD, k, 2, False) for k in range(5)}
    assert set(second) == {Cell(REPLAY, k, 1, False) for k in range(5)}
    done = {*first, *second}
    rest = {cell for batch in others for cell in batch}
    assert not rest & done
    # Seeds 2 and 3: BPGrad and the replay at every L, the others at the setting chosen.
    for seed in (2, 3):
        by_arm = {
            arm: sorted(c.position for c in rest | done if c.arm is arm and c.seed == seed)
            for arm in ARMS
        }
        assert by_arm.pop(BPGRAD) == by_arm.pop(REPLAY) == [0, 1, 2, 3, 4]
        assert set(map(tuple, by_arm.values())) == {(2,)}


@pytest.mark.parametrize(("best", "more"), [(0, -1), (-3, -1), (4, 5), (9, 5), (1, None)])
def test_a_best_at_the_end_adds_one_setting_of_that_arm(best: int, more: int | None) -> None:
    def result(cell: Cell) -> Outcome:
        return best_at(best if cell.arm in (COSINE, REPLAY) else 2)(cell)

    cells = [cell for batch in stages(result) for cell in batch]
    added = {(c.arm, c.seed, c.position) for c in cells if c.position not in range(5)}
    if more is None:
        assert added == set()
        return
    assert {(arm, seed) for arm, seed, _ in added} == {
        *((REPLAY, seed) for seed in SEEDS),
        *((BPGRAD, seed) for seed in SEEDS),  # whose steps the added replays take
        # With the other seeds only if it is the one chosen.
        *((COSINE, seed) for seed in (SEEDS if best in (-3, 9) else (1,))),
    }
    assert {position for _, _, position in added} == {more}


def test_diverged_runs_are_never_chosen_and_have_no_replay_to_wait_for() -> None:
    def result(cell: Cell) -> Outcome:
        diverged = cell.position <= 1 and cell.arm in (BPGRAD, REPLAY)
        return DIVERGED if diverged or cell.arm is ADAMW else best_at(0)(cell)

    found = {cell: result(cell) for batch in stages(result) for cell in batch}
    assert choice(BPGRAD, found, False) == 2
    assert choice(COSINE, found, False) == 0
    assert choice(ADAMW, found, False) == 2  # all are infinite: the middle
    assert not [cell for cell in planned(found, SEEDS, False) if cell not in found]


def test_fewer_seeds_are_a_part_of_the_same_plan() -> None:
    cells = {cell for batch in stages(best_at(2), [1]) for cell in batch}
    assert {cell.seed for cell in cells if cell.arm is not BPGRAD} == {1}
    assert {cell.seed for cell in cells if cell.arm is BPGRAD} == {1, 2}
    with pytest.raises(ConfigError, match=r"^feedback: seed 4: those registered are 1, 2, 3$"):
        feedback._checked([1, 4])


# -- answers -------------------------------------------------------------------------------------

NOISE = (0.00, 0.04, -0.03)


def series(error: float, objective: float = 1.0, spread: float = 1.0) -> dict[int, Outcome]:
    return {
        seed: outcome(error + spread * x, objective * math.exp(spread * x))
        for seed, x in zip(SEEDS, NOISE, strict=True)
    }


def shuffled(error: float, objective: float = 1.0, spread: float = 1.0) -> dict[int, Outcome]:
    found = series(error, objective, spread)
    return dict(zip(SEEDS, [found[2], found[3], found[1]], strict=True))


@pytest.mark.parametrize(
    ("ours", "theirs", "error", "objective"),
    [
        (series(20.0), shuffled(20.2, 1.05), "tie", "tie"),
        (series(20.0, 0.5), shuffled(23.0), "better", "better"),
        (series(23.0), shuffled(20.0, 0.5), "worse", "worse"),
        (series(20.0, spread=60), shuffled(21.0, 2.0, spread=60), "undecided", "undecided"),
        ({1: outcome(20.0)}, {1: outcome(30.0, 5.0)}, "undecided", "undecided"),
        # Three seeds without any difference: the sign test's p is 1/8.
        (series(20.0), series(20.0), "undecided", "undecided"),
    ],
)
def test_what_two_arms_are_to_each_other(
    ours: dict[int, Outcome], theirs: dict[int, Outcome], error: str, objective: str
) -> None:
    found = answers.compare(ours, theirs)
    assert (found["test error"].word, found["objective"].word) == (error, objective)
    assert found["objective"].numbers.endswith(f"n = {len(ours)}")
    if error == "undecided" and len(ours) > 1 and ours != theirs:
        assert "needs n = " in found["test error"].numbers


def five(**changes: dict[int, Outcome]) -> list[answers.Answer]:
    by_setting = {f"L = {k}": (series(20.0), shuffled(20.1)) for k in (25, 50)}
    replayed = changes.pop("replayed", None)
    if replayed is not None:
        by_setting["L = 50"] = (series(20.0), replayed)
    names = ("bpgrad", "epoch_mean", "constant", "cosine", "linear", "scheduled")
    arms = {name: shuffled(20.1) for name in names}
    arms |= {"bpgrad": series(20.0), "scheduled": series(20.0)} | changes
    return answers.five(by_setting, **arms)


def test_five_answers() -> None:
    found = five(constant=shuffled(25.0, 3.0), cosine=shuffled(17.0, 0.4), linear=shuffled(24.0))
    assert [answer.short for answer in found] == [
        "test error: nothing, a tie in all 2; objective: nothing, a tie in all 2",
        "test error: nothing, a tie; objective: nothing, a tie",
        "test error: something, better; objective: something, better",
        "test error: no one answer: better in 1, worse in 1 of 2; "
        "objective: no one answer: better in 1, tie in 1 of 2",
        "test error: nothing, worse; objective: nothing, worse",
    ]


def test_a_replay_that_diverged_is_left_out_and_another_arm_counts_as_guessing() -> None:
    one = {**series(20.0), 2: DIVERGED}
    found = five(replayed=one, constant=dict.fromkeys(SEEDS, DIVERGED))
    assert found[0].short == "test error: nothing, a tie; objective: nothing, a tie"
    assert found[0].details[-1] == "left out, because a run diverged: L = 50"
    assert "test error: something, better" in found[2].short or "undecided" in found[2].short
    (numbers,) = found[2].details
    assert "-70" in numbers  # 20 % against the 90 % of guessing
    assert "3 of 3 runs of the second diverged" in numbers
    # Three seeds cannot show by ranks, which is all there is of infinite values, what they do.
    assert "objective undecided (a run diverged" in numbers


def test_what_only_guesses_on_both_sides_is_left_out() -> None:
    """Two constants are the same on all seeds; where one side learns they are compared."""
    guessing = {seed: outcome(90.0, 10.0) for seed in SEEDS}
    pairs = {
        "L = 1": (guessing, {seed: outcome(89.5, 10.0) for seed in SEEDS}),
        "L = 2": (guessing, {**guessing, 3: outcome(20.0)}),
        "L = 3": (series(20.0), shuffled(20.1)),
        "L = 4": ({}, {}),
    }
    found = answers._every_setting(pairs)
    assert found.words["test error"] == ("undecided", "tie", "undecided")
    assert found.details[-1] == "left out, because both only guess: L = 1"
    none = answers._every_setting({"L = 1": pairs["L = 1"]})
    assert none.brief == none.short == "no L at which both learn"


def test_the_page_says_where_the_labels_change_the_answer() -> None:
    text = answers.together({False: five(), True: five(cosine=shuffled(17.0))})
    assert text.count("The answer differs with the labels.") == 2  # of questions 4 and 5
    assert text.count("**Does reacting within an epoch add anything?**") == 1
    assert "The answer differs" not in answers.together({False: five()})
    # One seed decides nothing, so it contradicts nothing.
    for arm in ({1: outcome(40.0)}, {}):
        undecided = dict.fromkeys(("epoch_mean", "constant", "cosine", "linear"), arm)
        assert "The answer differs" not in answers.together(
            {False: five(), True: five(scheduled=arm, replayed=arm, **undecided)}
        )


def test_the_opening_has_all_five_answers_in_a_sentence() -> None:
    found = five(constant=shuffled(25.0, 3.0), linear=shuffled(24.0, 0.4))
    assert answers.in_short({False: found}) == (
        "What each is worth in test error / objective, with labels as they are (n = 3): "
        "reacting to its own loss *nothing*; reacting within an epoch *nothing*; "
        "the decay *gain*; knowing the length of the run "
        "*harm in 1, nothing in 1 / gain in 1, nothing in 1*; "
        "feedback beside a schedule *nothing*."
    )


def test_the_opening_says_of_noisy_labels_what_differs() -> None:
    one = {1: outcome(19.0)}
    both = answers.in_short({False: five(), True: five(epoch_mean=one)})
    assert both.endswith(
        "feedback beside a schedule *nothing*, with a tenth of the labels drawn at random "
        "(n = 1 to 3): reacting within an epoch *undecided*."
    )
    assert answers.in_short({False: five(), True: five()}).endswith("(n = 3): the same.")


# -- all of it, small ----------------------------------------------------------------------------


def test_from_the_first_run_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "TASK", "digits")
    monkeypatch.setattr(feedback, "EPOCHS", 1)
    monkeypatch.setattr(feedback, "ARMS", (BPGRAD, COSINE, REPLAY))
    monkeypatch.setattr(feedback, "SETTINGS", range(2, 4))
    monkeypatch.setattr(feedback, "LABELS", (True,))
    monkeypatch.setattr(feedback, "_answers", lambda found, noisy: five())
    folder = tmp_path / "results" / "studies" / "feedback"
    places = [f"results_root={tmp_path}/results/runs", f"checkpoint_root={tmp_path}/checkpoints"]
    small = ["scale.train_examples=100", "scale.val_examples=50", "batch_size=30"]
    given = [*places, *small]
    lines = list(feedback.missing(folder, seeds=[1], overrides=given))
    assert not folder.exists()
    assert lines[0].startswith("feedback, noisy labels: 8 of 8 runs to do")
    assert any("more, once settings are chosen of BPGrad, (ii) cosine" in line for line in lines)

    folder.mkdir(parents=True)
    feedback.run(folder, seeds=[1], overrides=given)
    again = list(feedback.missing(folder, seeds=[1], overrides=given))
    assert [line.rpartition(": ")[2] for line in again] == ["all runs have ended"]
    with monkeypatch.context() as patch:
        patch.setattr(runner, "execute", None)  # nothing is left to run
        feedback.run(folder, seeds=[1], overrides=given)

    runs = feedback.Runs(folder, given)
    replay = Cell(REPLAY, 2, 1, noisy=True)
    recorded = np.load(runs.eta(replay.source))
    assert (recorded.shape, recorded.dtype) == ((3,), np.float32)
    steps = np.load(
        tmp_path / "checkpoints" / run_name(runs.config(replay)) / "steps/epoch0001.npy"
    )
    assert recorded.tolist() in steps.T.tolist()  # the replay took them, one for one
    series = tmp_path / "checkpoints" / run_name(runs.config(replay.source)) / "steps/epoch0001.npy"
    series.unlink()
    with pytest.raises(RecordError, match=r"epoch0001.npy: the step sizes of digits/bpgrad/seed2-"):
        feedback.step_sizes(runs.config(replay.source))
    with monkeypatch.context() as patch:
        patch.setattr(runner, "execute", None)  # no replay waits for them
        runs.eta(replay.source).unlink()
        feedback.run(folder, seeds=[1], overrides=given)
    shutil.rmtree(tmp_path / "results" / "runs" / run_name(runs.config(replay)))
    feedback.run(folder, seeds=[1], overrides=given)  # one waits: they are made again
    assert np.array_equal(np.load(runs.eta(replay.source)), recorded)
    assert series.exists()

    assert json.loads((folder / "meta.json").read_text())["computed"]
    declared = declaration.Study("feedback", "the decisive experiment", "feedback")
    place = studies.Place(folder, folder, folder)
    (opening,) = studies.findings("experiments.studies", declared, place)
    assert opening == answers.in_short({True: five()})
    text = feedback.show(folder, tmp_path, tmp_path)
    assert text == feedback.show(folder, tmp_path, tmp_path)
    assert text.startswith(f"{opening}\n\n1. **Does reacting to one's own loss")
    assert "| (iv) replay | " in text
    rows = list(csv.DictReader((tmp_path / "feedback.csv").open()))
    assert {row["labels"] for row in rows} == {"noisy"}
    for row in rows:
        record = tmp_path / "results" / "runs" / row["run"]
        last = list(csv.DictReader((record / "metrics.csv").open()))[-1]
        assert float(row["test_error"]) == pytest.approx(float(last["val_test_top1_error"]))
        expected = math.log(float(last["fixed_objective"]))
        assert float(row["log_objective"]) == pytest.approx(expected, rel=1e-4)


def test_a_batch_that_is_cut_leaves_what_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Cell(COSINE, 2, 1, noisy=False)
    found: dict[Cell, Outcome] = {}

    def cut(*_: object) -> int:
        found[done] = outcome(20.0)
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(runner, "execute", cut)
    with pytest.raises(Interrupted):
        staged.train("feedback", tmp_path, lambda: found, lambda _: [done], lambda _: (), 1)
    assert json.loads((tmp_path / "meta.json").read_text())["computed"]
    found.clear()
    monkeypatch.setattr(runner, "execute", lambda *_: 1)
    empty = tmp_path / "empty"
    with pytest.raises(BPGradError, match="1 of 1 runs failed"):
        staged.train("feedback", empty, lambda: found, lambda _: [done], lambda _: (), 1)
    assert not empty.exists()  # nothing has been computed


def test_a_replay_of_a_run_that_diverged_has_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = feedback.Runs(Path("results/studies/feedback"), [])
    replay = Cell(REPLAY, 2, 1, noisy=False)
    look = feedback.Runs.look

    def fake(self: feedback.Runs, cell: Cell) -> Outcome | None:
        return DIVERGED if cell == replay.source else look(self, cell)

    monkeypatch.setattr(feedback.Runs, "look", fake)
    assert runs.look(replay) is DIVERGED
    assert runs.look(replace(replay, seed=2)) is None
