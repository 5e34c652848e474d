"""The warnings about L and skipped steps: what they say, when, and that they wait for nothing."""

import math
import re
import warnings
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils._python_dispatch import TorchDispatchMode

from bpgrad.optim import BPGrad
from tests.kernel import needs_kernel

MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
}


@pytest.fixture(params=MODES.values(), ids=MODES.keys())
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def parameter(value: torch.Tensor, gradient: torch.Tensor) -> Any:
    p = torch.nn.Parameter(value)
    p.grad = gradient
    return p


def said(optimizer: BPGrad, steps: int, loss: float = 1.0) -> list[str]:
    """What is said during some steps; each of the warnings points to this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            optimizer.step(loss=loss)
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


def test_a_gradient_above_L_is_counted_and_said_once(mode: dict[str, Any]) -> None:
    p = parameter(torch.ones(4), torch.full((4,), 1.0))  # ‖g‖ = 2
    optimizer = BPGrad([{"params": [p]}], 1.5, **mode)
    optimizer.add_param_group({"params": [parameter(torch.zeros(2), torch.zeros(2))], "lr": 0.1})
    assert said(optimizer, 19) == []  # looked at after 10 steps, seen after 20
    assert optimizer.exceeded_steps.item() == 19
    assert said(optimizer, 680) == [
        "L = 1.5 is too small here: ‖g‖ reached 2, above L in 10 of 10 steps, where BPGrad's "
        "bounds do not hold; unless the loss falls all the same, try 2 or more"
    ]
    optimizer.step(loss=math.nan)
    assert optimizer.exceeded_steps.item() == 699


@pytest.mark.parametrize(
    ("norm", "advice"),
    [
        (1.01, "reached 1, above L in 10 of 10 steps, .*, try 1.1 or more"),
        (8.0, "try 8 or more"),
        (8.04, "try 8.1 or more"),
        (1234.0, "diverged: start again with what suggest_lipschitz proposes"),
    ],
)
def test_what_to_try_is_not_below_the_norm(norm: float, advice: str) -> None:
    value = torch.tensor([norm], dtype=torch.float64)
    (message,) = said(BPGrad([parameter(torch.ones_like(value), value)], 1.0), 200)
    assert re.search(advice, message)


@pytest.mark.parametrize("before", [20, 100])
def test_what_begins_later_is_said_later(before: int) -> None:
    p = parameter(torch.ones(4), torch.ones(4))
    optimizer = BPGrad([p], 5.0)
    assert said(optimizer, before) == []
    p.grad.mul_(4)  # ‖g‖ = 8
    first = 100 if before == 20 else 200
    assert said(optimizer, first + 99 - before) == []
    (message,) = said(optimizer, 1)
    assert f"above L in {first - before} of {first} steps" in message


@pytest.mark.parametrize(
    ("lipschitz", "words"),
    [(0.01, "start again with what"), (1.0, "L = 1 is too small here"), (1e6, "far too large")],
)
def test_a_wrong_L_is_said_within_150_steps(lipschitz: float, words: str) -> None:
    """An MLP on scikit-learn's digits."""
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = BPGrad(model.parameters(), lipschitz)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(150):
            batch = torch.randint(0, 1797, (64,))
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
            loss.backward()
            optimizer.step(loss=loss)
    assert any(words in str(warning.message) for warning in caught)


def test_skipped_steps_are_said_again_when_they_are_tenfold(mode: dict[str, Any]) -> None:
    optimizer = BPGrad([parameter(torch.ones(4), torch.ones(4))], 5.0, **mode)
    assert said(optimizer, 63) == []
    assert said(optimizer, 837, math.nan) == [
        f"{k} of {total} steps were skipped: their loss or gradient was not finite; where many "
        "are, L is too small, or the loss overflows"
        for k, total in ((37, 100), (437, 500))
    ]
    assert optimizer.skipped_steps.item() == 837


def test_an_L_that_is_far_too_large(mode: dict[str, Any]) -> None:
    p = parameter(torch.full((4,), 2.0), torch.ones(4))  # ‖w‖ = 4
    (message,) = said(BPGrad([p], 1e6, **mode), 700, 2.3)
    assert message == (
        "η/‖w‖ was 6e-07 in the first step, too short to get anywhere: L = 1e+06 may be far too "
        "large; see suggest_lipschitz"
    )


@pytest.mark.parametrize("lipschitz", [50.0, "auto"])
def test_nothing_is_said_of_an_ordinary_run(lipschitz: Any, mode: dict[str, Any]) -> None:
    p = parameter(torch.ones(4), torch.ones(4))
    optimizer = BPGrad([p], lipschitz, **mode)
    assert said(optimizer, 150) == []
    assert said(optimizer, 350, 1e-9) == []  # the loss has fallen, and with it the step


def test_nothing_is_said_of_a_resumed_run_whose_loss_has_fallen() -> None:
    p = parameter(torch.ones(4), torch.ones(4))
    optimizer = BPGrad([p], 50.0)
    optimizer.step(loss=1.0)
    other = BPGrad([p], 50.0)
    other.load_state_dict(optimizer.state_dict())
    assert said(other, 300, 1e-9) == []


def test_watching_reads_nothing_on_the_host(
    no_host_read: TorchDispatchMode, mode: dict[str, Any]
) -> None:
    optimizer = BPGrad([parameter(torch.ones(4), torch.ones(4))], 0.5, **mode)
    loss = torch.tensor(1.0)
    with no_host_read, warnings.catch_warnings(record=True) as caught:
        for _ in range(301):
            optimizer.step(loss=loss)
    assert len(caught) == 1


@needs_kernel
def test_the_modes_include_the_kernel() -> None:
    optimizer = BPGrad([parameter(torch.ones(4), torch.ones(4))], 0.5)
    optimizer.step(loss=1.0)
    assert optimizer._layout is not None
