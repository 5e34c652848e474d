"""Every solver against its NumPy transcription, and proof that the comparison has teeth.

A torch optimizer walks 60 steps on a smooth non-convex function; the gradients and losses it met
are then fed to the transcription, which must pass through the same weights at every step.
One-line mutants of the transcriptions, judged by the same comparison, must not.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from bpgrad.optim import BPGrad, Eve, MatConvNetAdam
from tests.golden import transcriptions
from tests.golden.transcriptions import Array, Param
from tests.kernel import needs_kernel

STEPS = 60
TOLERANCE = 1e-12  # relative; float64 rounding over 60 steps
MUTATION = 1e-6  # relative; a wrong formula must show at least this much

# Two tensors, one tensor, one tensor and a 0-dim tensor: three groups with options of their own.
SHAPES: tuple[tuple[int, ...], ...] = ((4, 6), (6,), (6, 3), (3,), ())
GROUPS = ((0, 1), (2,), (3, 4))
LR_SCALES = (1.0, 0.3, 2.0)
WEIGHT_DECAYS = (0.0, 0.05, 0.2)
MOMENTA = (0.9, 0.5, 0.0)
LIPSCHITZ = (300.0, 200.0, 500.0)

Rule = Callable[..., None]


@dataclass(frozen=True)
class Solver:
    """An optimizer, the transcription that judges it, and the group options both understand."""

    build: Callable[..., torch.optim.Optimizer]
    rule: Rule
    lr: float | None  # of the first group; None for a solver without one
    options: tuple[str, ...] = ()


SOLVERS = {
    "bpgrad-paper": Solver(
        partial(BPGrad, lipschitz=1.0, rho=0.3, variant="paper"),
        partial(transcriptions.bpgrad_paper, rho=0.3),
        lr=1.0,
        options=("momentum", "lipschitz"),
    ),
    "bpgrad-released": Solver(
        partial(BPGrad, lipschitz=1.0, rho=0.3, variant="released"),
        partial(transcriptions.bpgrad_released, rho=0.3),
        lr=1.0,
        options=("momentum", "lipschitz"),
    ),
    "eve": Solver(Eve, transcriptions.eve, lr=0.05),
    "eve-tuned": Solver(
        partial(Eve, betas=(0.8, 0.95, 0.9), eps=1e-4, thresholds=(0.2, 3.0)),
        partial(transcriptions.eve, betas=(0.8, 0.95, 0.9), eps=1e-4, thresholds=(0.2, 3.0)),
        lr=0.05,
    ),
    "matconvnet-adam": Solver(MatConvNetAdam, transcriptions.matconvnet_adam, lr=0.05),
    "matconvnet-adam-tuned": Solver(
        partial(MatConvNetAdam, betas=(0.8, 0.95), eps=1e-4),
        partial(transcriptions.matconvnet_adam, betas=(0.8, 0.95), eps=1e-4),
        lr=0.05,
    ),
    "adagrad": Solver(
        partial(torch.optim.Adagrad, lr_decay=0, initial_accumulator_value=0, eps=1e-10),
        transcriptions.adagrad,
        lr=0.1,
    ),
    "adadelta": Solver(
        partial(torch.optim.Adadelta, lr=1.0, rho=0.9, eps=1e-6),
        transcriptions.adadelta,
        lr=None,
    ),
    "rmsprop": Solver(
        partial(torch.optim.RMSprop, alpha=0.99, eps=1e-8), transcriptions.rmsprop, lr=0.02
    ),
    "sgd": Solver(torch.optim.SGD, transcriptions.sgd, lr=0.01, options=("momentum",)),
}
WITH_MOMENTUM = [name for name, solver in SOLVERS.items() if "momentum" in solver.options]
WITHOUT_MOMENTUM = [name for name in SOLVERS if name not in WITH_MOMENTUM]


@dataclass(frozen=True)
class Step:
    """What one optimizer step was given, and the weights it left behind."""

    grads: list[Array]
    loss: float
    weights: list[Array]


@dataclass(frozen=True)
class Walk:
    """The path of one optimizer: per tensor the group options, and all steps."""

    options: list[dict[str, float]]
    steps: list[Step] = field(default_factory=list)


def initial_weights() -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in SHAPES]


def loss_at(weights: list[torch.Tensor], t: int) -> torch.Tensor:
    """Squared error of a small tanh net on batch t, times a factor between 0.1 and 10.

    The factor makes the loss jump by more than Eve's thresholds; the damped hidden bias has tiny
    gradients, so that the place of an ε in a formula shows.
    """
    rng = np.random.default_rng([1, t])
    x, y = torch.from_numpy(rng.normal(size=(16, 4))), torch.from_numpy(rng.normal(size=(16, 3)))
    w1, b1, w2, b2, gain = weights
    residual = gain * torch.tanh(x @ w1 + 1e-4 * b1) @ w2 + b2 - y
    return 10.0 ** rng.uniform(-1, 1) * residual.square().mean()


def group_options(solver: Solver, decay: bool, momentum: bool) -> list[dict[str, float]]:
    """One dictionary of torch options for each group, with only what the solver understands."""
    options: list[dict[str, float]] = []
    for i in range(len(GROUPS)):
        known = {"weight_decay": WEIGHT_DECAYS[i] if decay else 0.0}
        if solver.lr is not None:
            known["lr"] = solver.lr * LR_SCALES[i]
        if "momentum" in solver.options:
            known["momentum"] = MOMENTA[i] if momentum else 0.0
        if "lipschitz" in solver.options:
            known["lipschitz"] = LIPSCHITZ[i]
        options.append(known)
    return options


def of_each_tensor(options: list[dict[str, float]]) -> list[dict[str, float]]:
    return [own for members, own in zip(GROUPS, options, strict=True) for _ in members]


def initial_params(walk: Walk) -> list[Param]:
    return [Param(w, **own) for w, own in zip(initial_weights(), walk.options, strict=True)]


def open_walk(
    solver: Solver, decay: bool, momentum: bool, **extra: Any
) -> tuple[torch.optim.Optimizer, list[torch.Tensor], Walk]:
    """The optimizer at its start, the tensors it moves, and the still empty record of its path."""
    tensors = [torch.from_numpy(w).requires_grad_() for w in initial_weights()]
    options = group_options(solver, decay, momentum)
    groups: list[dict[str, Any]] = [
        {"params": [tensors[i] for i in members], **own}
        for members, own in zip(GROUPS, options, strict=True)
    ]
    return solver.build(groups, **extra), tensors, Walk(of_each_tensor(options))


def measure(tensors: list[torch.Tensor], walk: Walk) -> tuple[list[Array], float]:
    """Gradients and loss of the next batch; the second step repeats the first loss, to be a tie."""
    loss = loss_at(tensors, len(walk.steps))
    grads = [g.numpy().copy() for g in torch.autograd.grad(loss, tensors)]
    return grads, walk.steps[0].loss if len(walk.steps) == 1 else loss.item()


def advance(optimizer: torch.optim.Optimizer, tensors: list[torch.Tensor], walk: Walk) -> None:
    """One optimizer step, written down."""
    grads, loss = measure(tensors, walk)
    for w, g in zip(tensors, grads, strict=True):
        w.grad = torch.from_numpy(g.copy())
    if isinstance(optimizer, BPGrad | Eve):
        optimizer.step(loss=torch.tensor(loss, dtype=torch.float64))
    else:
        optimizer.step()
    walk.steps.append(Step(grads, loss, [w.detach().numpy().copy() for w in tensors]))


@cache
def recorded(name: str, decay: bool, momentum: bool) -> Walk:
    optimizer, tensors, walk = open_walk(SOLVERS[name], decay, momentum)
    for _ in range(STEPS):
        advance(optimizer, tensors, walk)
    return walk


def deviation(rule: Rule, walk: Walk) -> float:
    """Largest distance of the rule's weights from the recorded ones: any step, any tensor.

    Relative to the largest entry the tensor ever had; NaN if the rule leaves the numbers.
    """
    params = initial_params(walk)
    losses: list[float] = []
    errors: list[list[float]] = []
    for step in walk.steps:
        losses.append(step.loss)
        rule(params, step.grads, losses)
        errors.append([np.max(np.abs(p.w - w)) for p, w in zip(params, step.weights, strict=True)])
    sizes = [[np.max(np.abs(w)) for w in step.weights] for step in walk.steps]
    return float(np.max(np.max(errors, axis=0) / np.max(sizes, axis=0)))


@pytest.mark.parametrize("decay", [False, True], ids=["no decay", "decay"])
@pytest.mark.parametrize("name", WITHOUT_MOMENTUM)
def test_solver_follows_its_transcription(name: str, decay: bool) -> None:
    assert deviation(SOLVERS[name].rule, recorded(name, decay, False)) <= TOLERANCE


@pytest.mark.parametrize("decay", [False, True], ids=["no decay", "decay"])
@pytest.mark.parametrize("momentum", [False, True], ids=["no momentum", "momentum"])
@pytest.mark.parametrize("name", WITH_MOMENTUM)
def test_momentum_solver_follows_its_transcription(name: str, momentum: bool, decay: bool) -> None:
    assert deviation(SOLVERS[name].rule, recorded(name, decay, momentum)) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        *product(("bpgrad-paper", "bpgrad-released"), ("foreach", None)),
        pytest.param("bpgrad-paper", "fused", marks=needs_kernel),
        pytest.param("bpgrad-released", "fused", marks=needs_kernel),
        *product(("eve",), ("foreach", None)),
        *product(("matconvnet-adam", "matconvnet-adam-tuned"), ("foreach", "capturable")),
    ],
)
def test_every_kernel_follows_the_transcription(name: str, kernel: str | None) -> None:
    choice = {"foreach": False} if kernel is None else {kernel: True}
    optimizer, tensors, walk = open_walk(SOLVERS[name], True, True, **choice)
    for _ in range(STEPS):
        advance(optimizer, tensors, walk)
    assert deviation(SOLVERS[name].rule, walk) <= TOLERANCE


@pytest.mark.parametrize("name", ["bpgrad-paper", "bpgrad-released"])
def test_bpgrad_reports_the_scalars_of_its_step(name: str) -> None:
    """`step_size` of every group, `f_min` and the norm that divides, at every step."""
    optimizer, tensors, walk = open_walk(SOLVERS[name], True, True)
    assert isinstance(optimizer, BPGrad)
    params = initial_params(walk)
    for _ in range(STEPS):
        advance(optimizer, tensors, walk)
        losses, grads = [step.loss for step in walk.steps], walk.steps[-1].grads
        decay = float(name == "bpgrad-paper")
        divisor = math.sqrt(
            sum(
                np.sum((g + decay * p.weight_decay * p.w) ** 2)
                for p, g in zip(params, grads, strict=True)
            )
        )
        SOLVERS[name].rule(params, grads, losses)
        first_of_group = [params[members[0]].step_size for members in GROUPS]
        reported = [float(group["step_size"]) for group in optimizer.param_groups]
        np.testing.assert_allclose(reported, first_of_group, rtol=TOLERANCE)
        np.testing.assert_allclose(float(optimizer.step_size), first_of_group[0], rtol=TOLERANCE)
        np.testing.assert_allclose(float(optimizer.f_min), min(losses), rtol=TOLERANCE)
        np.testing.assert_allclose(float(optimizer.grad_norm), divisor, rtol=TOLERANCE)


def test_eve_takes_beta3_from_the_first_group() -> None:
    optimizer, tensors, walk = open_walk(SOLVERS["eve"], True, False)
    optimizer.param_groups[2]["betas"] = (0.9, 0.999, 0.5)
    for _ in range(STEPS):
        advance(optimizer, tensors, walk)
    assert deviation(transcriptions.eve, walk) <= TOLERANCE


def test_torch_adam_is_matconvnet_adam_only_with_a_rescaled_epsilon() -> None:
    """Judges the transcription: torch adds ε to the root of the corrected second moment."""
    solver = Solver(torch.optim.Adam, transcriptions.matconvnet_adam, lr=0.05)
    for rescale in (True, False):
        optimizer, tensors, walk = open_walk(solver, True, False)
        for t in range(1, STEPS + 1):
            for group in optimizer.param_groups:
                group["eps"] = 1e-8 / math.sqrt(1 - 0.999**t) if rescale else 1e-8
            advance(optimizer, tensors, walk)
        assert (deviation(solver.rule, walk) <= TOLERANCE) == rescale


# Mutants: (source text of the transcription, what replaces it). Each changes one line, or moves
# one factor between two, and is a mistake somebody could make.

BPGRAD_MUTANTS = {
    "uphill": ("momentum * p.v - ", "momentum * p.v + "),
    "rho dropped": ("rho * min(losses)", "min(losses)"),
    "current loss for the minimum": ("min(losses)", "losses[-1]"),
    "maximum for minimum": ("min(losses)", "max(losses)"),
    "minimum without the current loss": ("min(losses)", "min(losses[:-1] or losses)"),
    "minimum of the last ten": ("min(losses)", "min(losses[-10:])"),
    "target added": ("losses[-1] - rho", "losses[-1] + rho"),
    "L dropped": (" / p.lipschitz", ""),
    "L of the first group": ("/ p.lipschitz", "/ params[0].lipschitz"),
    "lr dropped": ("p.lr * (", "("),
    "momentum dropped": ("p.momentum * p.v - ", "-"),
    "momentum of the first group": ("p.momentum", "params[0].momentum"),
    "root of the norm missing": ("math.sqrt(", "("),
    "mean square for the sum": ("np.sum(g**2)", "np.mean(g**2)"),
    "largest entry for the norm": ("np.sum(g**2)", "np.max(g**2)"),
    "epsilon in the norm": ("/ norm", "/ (norm + 1e-3)"),
    "norm of each tensor": ("/ norm", "/ np.linalg.norm(g)"),
    "sign of the decay": ("g + p.weight_decay", "g - p.weight_decay"),
    "decay of the first group": ("p.weight_decay", "params[0].weight_decay"),
    "decay without the weight": ("p.weight_decay * p.w", "p.weight_decay"),
}

PAPER_MUTANTS = BPGRAD_MUTANTS | {
    "norm of the first group": ("for g in total))", "for g in total[:2]))"),
    "norm of the last group": ("for g in total))", "for g in total[3:]))"),
    "decay outside the norm": ("for g in total))", "for g in grads))"),
    "decay only in the norm": ("in zip(params, total", "in zip(params, grads"),
    "decay after the division": ("g / norm", "(g / norm + p.weight_decay * p.w)"),
    "dampened momentum": ("- p.step_size", "- (1 - p.momentum) * p.step_size"),
    "step size outside the buffer": (
        "p.step_size * g / norm\n        p.w = p.w + p.v",
        "g / norm\n        p.w = p.w + p.step_size * p.v",
    ),
    "Nesterov": (
        "p.w = p.w + p.v",
        "p.w = p.w + p.momentum * p.v - p.step_size * g / norm",
    ),
    "old velocity": (
        "p.v = p.momentum * p.v - p.step_size * g / norm\n        p.w = p.w + p.v",
        "p.w = p.w + p.v\n        p.v = p.momentum * p.v - p.step_size * g / norm",
    ),
}

RELEASED_MUTANTS = BPGRAD_MUTANTS | {
    "norm of the first group": ("for g in grads))", "for g in grads[:2]))"),
    "norm of the last group": ("for g in grads))", "for g in grads[3:]))"),
    "decay inside the norm": (
        "np.sum(g**2) for g in grads",
        "np.sum((g + p.weight_decay * p.w)**2) for p, g in zip(params, grads)",
    ),
    "decay dropped": ("(g + p.weight_decay * p.w)", "g"),
    "decay after the division": (
        "(g + p.weight_decay * p.w) / norm",
        "(g / norm + p.weight_decay * p.w)",
    ),
    "dampened momentum": ("- (g +", "- (1 - p.momentum) * (g +"),
    "step size inside the buffer": (
        "(g + p.weight_decay * p.w) / norm\n        p.w = p.w + p.step_size * p.v",
        "p.step_size * (g + p.weight_decay * p.w) / norm\n        p.w = p.w + p.v",
    ),
    "Nesterov": (
        "+ p.step_size * p.v",
        "+ p.step_size * (p.momentum * p.v - (g + p.weight_decay * p.w) / norm)",
    ),
    "step size twice": ("+ p.step_size * p.v", "+ p.step_size**2 * p.v"),
}

MOMENT_MUTANTS = {
    "uphill": ("p.w = p.w - ", "p.w = p.w + "),
    "decay dropped": ("g = g + p.weight_decay * p.w", "g = g"),
    "sign of the decay": ("g + p.weight_decay", "g - p.weight_decay"),
    "decay decoupled": (
        "g = g + p.weight_decay * p.w",
        "p.w = (1 - p.lr * p.weight_decay) * p.w",
    ),
    "decay of the first group": ("p.weight_decay", "params[0].weight_decay"),
    "lr of the first group": ("p.lr * ", "params[0].lr * "),
    "first moment not averaged": ("+ (1 - beta1) * g", "+ g"),
    "second moment not averaged": ("+ (1 - beta2) * g**2", "+ g**2"),
    "second moment not squared": ("(1 - beta2) * g**2", "(1 - beta2) * abs(g)"),
    "betas exchanged": ("beta2 * p.v", "beta1 * p.v"),
    "first correction missing": ("(1 - beta1**t)", "1"),
    "second correction missing": ("(1 - beta2**t)", "1"),
}

ADAM_MUTANTS = MOMENT_MUTANTS | {
    "second correction missing": ("math.sqrt(1 - beta2**t)", "1"),
    "root of the correction missing": ("math.sqrt(1 - beta2**t)", "(1 - beta2**t)"),
    "corrections count from zero": ("t = betas, len(losses)", "t = betas, len(losses) + 1"),
    "epsilon inside the root": ("(np.sqrt(p.v) + eps)", "np.sqrt(p.v + eps)"),
    "epsilon inside the correction": ("+ eps)", "+ eps * math.sqrt(1 - beta2**t))"),
    "epsilon dropped": ("+ eps)", ")"),
    "root missing": ("np.sqrt(p.v)", "p.v"),
}

EVE_MUTANTS = MOMENT_MUTANTS | {
    "feedback dropped": ("(d * np", "(np"),
    "feedback inverted": ("(d * np", "(1 / d * np"),
    "feedback on epsilon too": (
        "(d * np.sqrt(v_hat) + eps)",
        "(d * (np.sqrt(v_hat) + eps))",
    ),
    "epsilon inside the root": ("np.sqrt(v_hat) + eps", "np.sqrt(v_hat + eps)"),
    "epsilon dropped": ("np.sqrt(v_hat) + eps", "np.sqrt(v_hat)"),
    "feedback not averaged": ("+ (1 - beta3) * r", "+ r"),
    "feedback starts at zero": ("d = losses[0], 1.0", "d = losses[0], 0.0"),
    "feedback from the first step": ("in losses[1:]", "in losses"),
    "tie taken for a fall": ("f >= smooth", "f > smooth"),
    "thresholds exchanged": ("if f >= smooth", "if f < smooth"),
    "rise: lower threshold": ("(1 + k, 1 + K)", "(k, 1 + K)"),
    "rise: upper threshold": ("(1 + k, 1 + K)", "(1 + k, K)"),
    "fall: lower threshold": ("(1 / (1 + K), 1 / (1 + k))", "(1 / K, 1 / (1 + k))"),
    "fall: upper threshold": ("(1 / (1 + K), 1 / (1 + k))", "(1 / (1 + K), 1)"),
    "no lower clip": ("max(low, f / smooth)", "f / smooth"),
    "no upper clip": ("min(max(low, f / smooth), high)", "max(low, f / smooth)"),
    "raw loss kept": (
        "min(max(low, f / smooth), high) * smooth",
        "f",
    ),
    "relative to the previous loss": ("min(smooth, previous)", "previous"),
    "relative to the larger loss": ("min(smooth, previous)", "max(smooth, previous)"),
    "absolute value missing": ("abs(smooth - previous)", "(smooth - previous)"),
}

# Every mutant is judged on a walk with decay and momentum; Eve's and Adam's with the settings that
# leave its line in play (the tuned thresholds are met from both sides; the default ε is tiny).
MUTATED: list[tuple[str, tuple[str, ...], dict[str, tuple[str, str]]]] = [
    ("bpgrad-paper", ("bpgrad_paper",), PAPER_MUTANTS),
    ("bpgrad-released", ("bpgrad_released",), RELEASED_MUTANTS),
    ("eve-tuned", ("eve_feedback", "eve"), EVE_MUTANTS),
    ("matconvnet-adam", ("matconvnet_adam",), ADAM_MUTANTS),
]


def mutant(functions: tuple[str, ...], old: str, new: str) -> Rule:
    """The last of the named transcriptions after the replacement, which must fit exactly once."""
    source = "\n\n".join(inspect.getsource(getattr(transcriptions, name)) for name in functions)
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {functions}"
    namespace = dict(vars(transcriptions))
    exec(source.replace(old, new), namespace)
    return namespace[functions[-1]]


@cache
def transcribed(name: str) -> Walk:
    """The walk of the transcription itself, so that no product code has a part in its mutants."""
    solver = SOLVERS[name]
    walk = Walk(of_each_tensor(group_options(solver, decay=True, momentum=True)))
    params = initial_params(walk)
    for _ in range(STEPS):
        tensors = [torch.tensor(p.w, requires_grad=True) for p in params]
        grads, loss = measure(tensors, walk)
        solver.rule(params, grads, [*(step.loss for step in walk.steps), loss])
        walk.steps.append(Step(grads, loss, [p.w for p in params]))
    return walk


@pytest.mark.parametrize(
    ("solver", "functions", "old", "new"),
    [
        pytest.param(solver, functions, old, new, id=f"{solver}: {label}")
        for solver, functions, mutants in MUTATED
        for label, (old, new) in mutants.items()
    ],
)
def test_a_mutant_is_told_apart(
    solver: str, functions: tuple[str, ...], old: str, new: str
) -> None:
    rule = partial(mutant(functions, old, new), **getattr(SOLVERS[solver].rule, "keywords", {}))
    with np.errstate(all="ignore"):
        error = deviation(rule, transcribed(solver))
    assert not error <= MUTATION  # NaN is told apart as well
