"""Any optimizer trains, or is refused in one line that says what to write."""

import os
import re
import signal
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.core.config_store import ConfigStore
from torch import nn

from bpgrad.errors import ConfigError, Diverged, Interrupted, SolverError
from bpgrad.training.config import Config, SolverSpec, load, solver_spec
from bpgrad.training.identity import run_name
from bpgrad.training.solver import Solver
from bpgrad.training.trainer import train
from bpgrad.training.trial import make_solver
from tests.training import foreign
from tests.training.test_resume import contents
from tests.training.test_trainer import record_of

Tiny = Callable[..., Config]


def spec_of(text: str) -> SolverSpec:
    return solver_spec(Config(solver=settings_of(text)))


def settings_of(text: str) -> dict:
    """A solver's settings; a class without a module is one of ours."""
    ours = re.sub(r"optimizer: (\w+)(?=[,}])", r"optimizer: tests.training.foreign.\1", text)
    return {"name": "mine", **yaml.safe_load(ours)}


def solver_of(text: str) -> str:
    """Make a solver known to Hydra as it stands in a YAML file; the override that chooses it."""
    given = settings_of(text)
    ConfigStore.instance().store(group="solver", name="mine", node=given)
    return "solver=mine"


def small_model() -> nn.Module:
    """A convolution in channels_last and a matrix."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 2))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def steps(solver: Solver, model: nn.Module, count: int = 1) -> list[float]:
    """Steps on one minibatch of ‖·‖²; the objectives."""
    inputs = torch.ones(4, 2, 2, 2)

    def evaluate() -> torch.Tensor:
        solver.zero_grad()
        objective = (model(inputs) - 1).square().mean()
        solver.backward(objective)
        return objective.detach()

    found = []
    solver.training_mode()
    for _ in range(count):
        found.append(evaluate())
        solver.step(found[-1], 4, evaluate)
    return [float(value) for value in found]


JOIN = [
    "{optimizer: Plain, lr: 0.1, sign: 1}",
    "{optimizer: Plain, lr: 0.1, factor: 2, more: 1}",
    "{optimizer: Anything, lr: 0.1}",
    "{optimizer: Named, lr: 0.1, parameters: named}",
    "{optimizer: OfModel, parameters: model}",
    "{optimizer: Averaged}",
    "{optimizer: PassingOn}",
    "{optimizer: Sharpness, closure: true, wraps: {optimizer: torch.optim.SGD, lr: 0.1}}",
    "{optimizer: Lookahead, wraps: {optimizer: torch.optim.Adam, lr: 0.1}}",
    "{optimizer: Lookahead, wraps: {optimizer: Lookahead, wraps: {optimizer: Averaged}}}",
    "{optimizer: Curvature, create_graph: true}",
    "{optimizer: Matrices, groups: [{ndim: [2, 4], use_muon: true, lr: 0.02},"
    " {rest: true, use_muon: false, lr: 0.1}]}",
    "{optimizer: Only2D,"
    " groups: [{ndim: 2}, {rest: true, optimizer: torch.optim.AdamW, lr: 0.01}]}",
    "{optimizer: torch.optim.Muon, lr: 0.01, weight_decay: 0,"
    " groups: [{ndim: [2, 4], flatten: true}, {rest: true, optimizer: torch.optim.SGD, lr: 0.1}]}",
    "{optimizer: torch.optim.SGD, lr: 0.1, groups: [{match: '*.bias', lr: 0.2}, {rest: true}]}",
    "{optimizer: torch.optim.LBFGS, max_iter: 2}",
    "{optimizer: Viewing, lr: 0.1}",
    "{optimizer: Remembering, lr: 0.1}",
    "{optimizer: Forgetful, lr: 0.1}",
    "{optimizer: Late, lr: 0.1}",
    "{optimizer: factory}",
]


@pytest.mark.parametrize("text", JOIN)
def test_every_kind_joins(text: str) -> None:
    model = small_model()
    before = deepcopy(model)
    solver = make_solver(spec_of(text), model, {})
    for mine, its in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(mine, its)  # the trial was of a copy
    objectives = steps(solver, model, 12)
    assert objectives[-1] < objectives[0]
    solver.evaluation_mode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{optimizer: Plain}", "solver.lr: required by Plain; set it"),
        (
            "{optimizer: Sharpness, wraps: {optimizer: torch.optim.SGD}}",
            "with the line closure: true",
        ),
        ("{optimizer: Sharpness}", "solver.wraps: tests.training.foreign.Sharpness wraps another"),
        ("{optimizer: Lookahead}", "wraps: {optimizer: torch.optim.SGD, lr: 0.1}"),
        ("{optimizer: Lookahead, wraps: 3}", "wraps another optimizer; say which"),
        (
            "{optimizer: Plain, lr: 1, wraps: {optimizer: torch.optim.SGD}}",
            "has no argument that is",
        ),
        (
            "{optimizer: Lookahead, wraps: {optimizer: torch.optim.SGD, rate: 1}}",
            "unknown solver.optimizer.rate",
        ),
        ("{optimizer: Curvature}", "it works with the line create_graph: true"),
        ("{optimizer: Named, lr: 0.1}", "it works with the line parameters: named"),
        ("{optimizer: OfModel}", "it works with the line parameters: model"),
        ("{optimizer: Only2D}", "{rest: true, optimizer: torch.optim.AdamW, lr: 0.001}]"),
        (
            "{optimizer: Only2D, groups: [{ndim: 2}]}",
            "groups: no rule takes 0.weight; end with rest",
        ),
        (
            "{optimizer: Anything, groups: [{match: fc, lr: 1}, {rest: true}]}",
            "there are 0.weight, 0.bias",
        ),
        (
            "{optimizer: torch.optim.SGD, groups: [{ndim: 2, weight_decai: 1}, {rest: true}]}",
            "did you mean weight_decay",
        ),
        (
            "{optimizer: Anything, groups: [{lr: 1}]}",
            "needs either ndim or match (or both), or rest",
        ),
        ("{optimizer: Anything, groups: [{ndim: two}]}", "must be a number of dimensions"),
        ("{optimizer: Anything, groups: {ndim: 2}}", "must be a list of rules"),
        ("{optimizer: Anything, closure: 1}", "solver.closure=1: true or false"),
        (
            "{optimizer: Anything, closure: true, objective: epoch_mean}",
            "a closure returns the minib",
        ),
        ("{optimizer: Idle, lr: 0.1}", "steps have not changed a weight"),
        ("{optimizer: Hungry, lr: 0.1}", "mine: Hungry fails in step: RuntimeError: "),
        ("{optimizer: useless}", "makes a list, which has no step"),
        (
            "{optimizer: Anything, lr: -1}",
            "solver=mine refuses its settings: Anything: Invalid learning",
        ),
    ],
)
def test_the_others_are_refused_in_a_line_that_says_what_to_write(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_solver(spec_of(text), small_model(), {}, always=True)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_parameters_is_one_of_three(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="parameters=module: choose one of list, named, model"):
        tiny(solver_of("{optimizer: OfModel, parameters: module}"))


def test_what_a_closure_does(tiny: Tiny) -> None:
    """The recorded objective is of the weights before the step; every evaluation counts."""
    lookup = "{optimizer: Sharpness, closure: true, wraps: {optimizer: torch.optim.SGD, lr: 0.1}}"
    model = small_model()
    solver = make_solver(spec_of(lookup), model, {})
    other = deepcopy(model)
    inputs = torch.ones(4, 2, 2, 2)

    def gradients() -> list[torch.Tensor]:
        objective = (other(inputs) - 1).square().mean()
        return list(torch.autograd.grad(objective, list(other.parameters())))

    with torch.no_grad():
        first = gradients_at(gradients)
        for p, grad in zip(other.parameters(), first, strict=True):
            p.add_(0.05 * grad)
        second = gradients_at(gradients)
        for p, near, grad in zip(other.parameters(), first, second, strict=True):
            p.sub_(0.05 * near).sub_(0.1 * grad)
    steps(solver, model)
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its)
    assert solver.evaluations == 2

    cfg = tiny(solver_of(lookup), "epochs=2", "batch_size=64")
    result = train(cfg)
    assert result["evaluations"] == 20
    assert [row["evaluations"] for row in record_of(cfg).rows()] == [10, 20]
    assert "evaluations" not in train(tiny("solver=sgd", "epochs=1"))


def gradients_at(gradients: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
    with torch.enable_grad():
        return gradients()


def test_weights_are_judged_where_the_optimizer_wants(tiny: Tiny) -> None:
    """Averaged: y = x + (z - x)/3 in training; the result's weights are x."""
    model = small_model()
    solver = make_solver(spec_of("{optimizer: Averaged}"), model, {})
    steps(solver, model, 3)
    (part,) = solver.optimizers
    y = [p.detach().clone() for p in model.parameters()]
    solver.evaluation_mode()
    solver.evaluation_mode()  # once is enough
    for p, its in zip(model.parameters(), y, strict=True):
        torch.testing.assert_close(p.detach(), its + (part.state[p]["z"] - its) * -0.5)
    outer = spec_of("{optimizer: Lookahead, wraps: {optimizer: Averaged}}")
    wrapped = make_solver(outer, small_model(), {})
    wrapped.training_mode()
    assert not wrapped.optimizers[0].optimizer.at_average  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        "{optimizer: Averaged, lr: 0.05}",
        "{optimizer: Only2D, lr: 0.05, groups: [{ndim: 1, optimizer: torch.optim.AdamW},"
        " {ndim: 4, optimizer: torch.optim.Adam}]}",
        "{optimizer: Sharpness, closure: true, wraps: {optimizer: torch.optim.SGD, lr: 0.1}}",
        "{optimizer: Lookahead, wraps: {optimizer: torch.optim.Adam, lr: 0.01}}",
        "{optimizer: torch.optim.Muon, lr: 0.01, groups: [{ndim: [2, 4], flatten: true},"
        " {rest: true, optimizer: torch.optim.SGD, lr: 0.05}]}",
    ],
)
def test_a_run_that_is_cut_ends_with_the_same_bits(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "Only2D" in text:  # the model has no matrix
        text = text.replace("Only2D", "torch.optim.SGD").replace("ndim: 4", "match: '*2*.weight'")
        text = text.replace("]}", ", {rest: true}]}")
    settings = [solver_of(text), "epochs=2", "batch_size=64", "scale=smoke"]
    settings += ["scale.train_examples=320", "scale.val_examples=100", "threads=1"]

    def roots(name: str) -> list[str]:
        folder = tmp_path / name
        return [f"results_root={folder}/runs", f"checkpoint_root={folder}/checkpoints", *settings]

    train(load(roots("whole")))
    step, count = Solver.step, 0

    def step_with_signal(self: Solver, objective: torch.Tensor, examples: int, *more: Any) -> None:
        nonlocal count
        count += examples > 1  # a trial's step has one
        if examples > 1 and count == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, objective, examples, *more)

    monkeypatch.setattr(Solver, "step", step_with_signal)
    with pytest.raises(Interrupted, match="epoch 2, iteration 2; the same command resumes"):
        train(load(roots("cut")))
    train(load(roots("cut")))
    assert count == 10
    whole, cut = roots("whole"), roots("cut")
    assert contents(tmp_path / "cut", cut) == contents(tmp_path / "whole", whole)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Remembering", "its state cannot be saved as tensors and plain values (deque)"),
        ("Forgetful", "its state_dict lacks part of its state"),
        ("Stateless", "its state cannot be saved (mine: Stateless fails in state_dict: Attribute"),
        ("Dicing", "its state_dict lacks part of its state"),
    ],
)
def test_a_run_that_could_not_be_resumed_says_so_and_is_not(
    name: str, reason: str, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny(solver_of(f"{{optimizer: {name}, lr: 0.05}}"), "epochs=1", "batch_size=64")
    result = train(cfg)
    out = capsys.readouterr().out
    assert f"mine: {name}: {reason}" in out
    assert "; the run keeps no checkpoint, and begins again if it is stopped" in out
    assert not (record_of(cfg).checkpoints / "checkpoint.pt").exists()
    again = train(tiny(solver_of(f"{{optimizer: {name}, lr: 0.05}}"), "epochs=1", "batch_size=64",
                       "rerun=true"))  # fmt: skip
    assert again["weights_sha256"] == result["weights_sha256"]


def test_contiguous_weights_where_needed_have_the_same_values(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_model()
    solver = make_solver(spec_of("{optimizer: Viewing, lr: 0.1}"), model, {})
    assert all(p.is_contiguous() for p in model.parameters())
    assert all(map(torch.equal, model.parameters(), small_model().parameters()))
    assert "Viewing cannot do with channels_last weights" in solver.remarks[0]
    cfg = tiny(solver_of("{optimizer: Viewing, lr: 0.05}"), "epochs=1")
    train(cfg)
    assert "Viewing cannot do with channels_last weights" in capsys.readouterr().out
    assert record_of(cfg).meta()["starts"][0]["channels_last"] is False


@pytest.mark.parametrize("how", ["closure: true", "closure: false"])
@pytest.mark.parametrize(
    "optimizer", ["torch.optim.SGD, momentum: 0.9, weight_decay: 0.1", "torch.optim.Adam, eps: 0.1"]
)
def test_matrices_in_the_place_of_kernels_change_nothing_by_the_element(
    optimizer: str, how: str
) -> None:
    """The same bits as with the kernels themselves, of an optimizer without regard for shapes."""
    ended = []
    for rule in ("{rest: true}", "{ndim: 4, flatten: true, lr: 0.01}, {rest: true}"):
        text = f"{{optimizer: {optimizer}, lr: 0.01, {how}, groups: [{rule}]}}"
        model = small_model().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        solver = make_solver(spec_of(text), model, {})
        steps(solver, model, 5)
        ended.append([p.detach().clone() for p in model.parameters()])
        given = {p.ndim for group in solver.param_groups for p in group["params"]}
        assert given == ({1, 2} if "flatten" in rule else {1, 2, 4})
    for one, other in zip(*ended, strict=True):
        assert torch.equal(one, other)


def test_multipliers_reach_matrices_too() -> None:
    text = "{optimizer: torch.optim.SGD, lr: 0.1, lr_multipliers: true, groups: [{ndim: 4,"
    text += " flatten: true}, {rest: true}]}"
    model = small_model()
    solver = make_solver(spec_of(text), model, {"0.weight": 2.0, "0.bias": 3.0})
    solver.set_learning_rate(1)
    rates = {tuple(p.shape): g["lr"] for g in solver.param_groups for p in g["params"]}
    assert rates[3, 8] == pytest.approx(0.2)  # of three kernels of 2 × 2 × 2
    assert any("contiguous" in remark for remark in solver.remarks)
    assert solver.param_groups[1]["lr"] == pytest.approx(0.3)


def test_an_optimizer_that_moves_its_weights_cannot_have_matrices() -> None:
    text = "{optimizer: Moving, lr: 0.1, groups: [{ndim: 4, flatten: true}, {rest: true}]}"
    with pytest.raises(ConfigError, match=r"Moving: groups: flatten: 0\.weight is moved to other"):
        make_solver(spec_of(text), small_model(), {})
    with pytest.raises(ConfigError, match=r"groups\[0\]\.flatten=3: true or false"):
        spec_of(text.replace("flatten: true", "flatten: 3"))


def test_a_trial_leaves_no_trace(tiny: Tiny) -> None:
    """The same weights as without it, whatever it has drawn."""
    plain = train(tiny("solver=sgd", "epochs=1", "solver.momentum=0", "solver.weight_decay=0"))
    foreign_one = train(tiny(solver_of("{optimizer: Anything, lr: 0.01}"), "epochs=1"))
    assert foreign_one["weights_sha256"] == plain["weights_sha256"]


def test_what_step_raises_is_one_line_with_name_and_place(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign.Failing, "count", 5)
    text = "{optimizer: Failing, lr: 0.05}"
    with pytest.raises(
        ConfigError, match=r"^mine: Failing fails in step: ArithmeticError: no more"
    ):
        train(tiny(solver_of(text), "epochs=9"))
    monkeypatch.setattr(foreign.Failing, "count", -100)
    with pytest.raises(SolverError) as failed:
        train(tiny(solver_of(text), "epochs=40", "batch_size=64"))
    assert failed.value.exit_code == 4
    assert "\n" not in str(failed.value)
    assert "mine: Failing fails in step: ArithmeticError: no more (at epoch " in str(failed.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(SystemExit, "SystemExit: exits with 3"), (GeneratorExit, "GeneratorExit: 3")],
)
def test_an_optimizer_that_exits_is_one_line(
    kind: type[BaseException], words: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script's `sys.exit` would end the comparison that the run is of, without a word."""
    monkeypatch.setattr(foreign.Quitting, "kind", kind)
    text = solver_of("{optimizer: Quitting, lr: 0.05}")
    monkeypatch.setattr(foreign.Quitting, "count", 5)
    with pytest.raises(ConfigError, match=f"^mine: Quitting fails in step: {words}$"):
        train(tiny(text, "epochs=9"))
    monkeypatch.setattr(foreign.Quitting, "count", -100)
    with pytest.raises(SolverError, match=f"Quitting fails in step: {words} "):
        train(tiny(text, "epochs=40", "batch_size=64"))


def test_ctrl_c_in_a_step_is_no_failure_of_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign.Quitting, "kind", KeyboardInterrupt)
    monkeypatch.setattr(foreign.Quitting, "count", 5)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(solver_of("{optimizer: Quitting, lr: 0.05}"), "epochs=9"))


def test_gradients_that_were_left_switched_off_are_on_again(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="Careless fails in step: ArithmeticError: no more"):
        train(tiny(solver_of("{optimizer: Careless, lr: 0.1}"), "epochs=1"))
    assert torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    assert train(tiny("solver=sgd", "epochs=1"))["epochs"] == 1
    assert torch.is_grad_enabled()


def test_what_a_hook_of_the_backward_pass_raises_is_one_line(tiny: Tiny) -> None:
    text = "{optimizer: Hooked, parameters: model, count: 20}"
    with pytest.raises(
        SolverError, match=r"^digits/mine/.*mine: Hooked fails in backward: Ar.*at e"
    ):
        train(tiny(solver_of(text), "epochs=40", "batch_size=64"))


def test_an_error_at_weights_that_are_nan_is_a_divergence(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.SGD.step

    def raising(self: torch.optim.SGD, closure: object = None) -> None:
        if not all(p.isfinite().all() for g in self.param_groups for p in g["params"]):
            raise ArithmeticError("eigenvalues of NaN")
        step(self)

    monkeypatch.setattr(foreign.Anything, "step", raising)
    with pytest.raises(Diverged):
        train(tiny(solver_of("{optimizer: Anything, lr: 1.0e+30}"), "epochs=2"))


def test_only_numbers_are_recorded(tiny: Tiny) -> None:
    """`step_size` of Plain is a word; its `grad_norm` a float."""
    cfg = tiny(solver_of("{optimizer: Plain, lr: 0.05}"), "epochs=1")
    train(cfg)
    (row,) = record_of(cfg).rows()
    assert row["grad_norm_median"] > 0
    assert "step_size_min" not in row


def test_a_rate_that_the_optimizer_adapts_is_left_alone() -> None:
    spec = spec_of("{optimizer: Forgetful, lr: 0.1}")
    solver = Solver(spec, small_model(), {})
    solver.optimizers[0].param_groups[0]["lr"] = 0.3
    assert solver.set_learning_rate(2) == 0.1
    assert solver.optimizers[0].param_groups[0]["lr"] == 0.3


def test_a_schedule_reaches_every_group_and_wrapped_optimizers() -> None:
    text = (
        "{optimizer: Lookahead, lr_factors: {2: 0.5}, wraps: {optimizer: torch.optim.SGD, lr: 0.1}}"
    )
    solver = Solver(spec_of(text), small_model(), {})
    solver.set_learning_rate(2)
    assert [group["lr"] for group in solver.param_groups] == [0.05]
    text = (
        "{optimizer: torch.optim.SGD, lr: 0.1, lr_factors: {2: 0.5}, groups: "
        "[{ndim: 1, lr: 0.4}, {ndim: 2, optimizer: torch.optim.Adam, lr: 0.2}, {rest: true}]}"
    )
    solver = Solver(spec_of(text), small_model(), {})
    assert solver.set_learning_rate(2) == 0.05
    assert sorted(group["lr"] for group in solver.param_groups) == [0.05, 0.1, 0.2]


def test_how_it_is_driven_is_part_of_the_name() -> None:
    base = "{optimizer: Anything, lr: 0.1"
    texts = [
        *("", ", closure: true", ", create_graph: true", ", parameters: named"),
        *(", groups: [{rest: true}]", ", groups: [{ndim: 2}, {rest: true}]"),
    ]
    names = {run_name(load([solver_of(f"{base}{text}}}")])) for text in texts}
    assert len(names) == len(texts)
    for same in (", closure: false", ", create_graph: false", ", parameters: list", ", groups: []"):
        assert run_name(load([solver_of(f"{base}{same}}}")])) in names


# -- packages, where they are installed ----------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{optimizer: schedulefree.AdamWScheduleFree, lr: 0.01}",
        "{optimizer: schedulefree.AdamWScheduleFreeClosure, lr: 0.01}",
        "{optimizer: schedulefree.ScheduleFreeWrapper,"
        " wraps: {optimizer: torch.optim.SGD, lr: 0.1}}",
    ],
)
def test_schedulefree(text: str, tiny: Tiny) -> None:
    pytest.importorskip("schedulefree")
    assert train(tiny(solver_of(text), "epochs=3"))["val_objective"] < 2.2  # ln 10 = 2.303


@pytest.mark.parametrize(
    "text",
    [
        "{optimizer: pytorch_optimizer.AdamP, lr: 0.01}",
        "{optimizer: pytorch_optimizer.SAM, closure: true,"
        " wraps: {optimizer: torch.optim.SGD, lr: 0.1}}",
        "{optimizer: pytorch_optimizer.Lookahead, wraps: {optimizer: torch.optim.Adam, lr: 0.01}}",
        "{optimizer: pytorch_optimizer.AdaHessian, create_graph: true, lr: 0.1}",
        "{optimizer: pytorch_optimizer.Muon, lr: 0.01, groups: [{ndim: [2, 4], use_muon: true},"
        " {rest: true, use_muon: false}]}",
    ],
)
def test_pytorch_optimizer(text: str, tiny: Tiny) -> None:
    pytest.importorskip("pytorch_optimizer")
    assert train(tiny(solver_of(text), "epochs=3"))["val_objective"] < 2.2
