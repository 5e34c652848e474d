"""lipschitz="auto", and suggest_lipschitz."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bpgrad.optim import BPGrad, suggest_lipschitz

NORMS = [3.0, 1.0, 5.0, 0.5, float("nan"), 0.5, 9.0, 0.0]
# max(2 ‖g‖, 0.999 · before), by hand; the step that is not finite changes nothing
ESTIMATES = [6.0, 5.994, 10.0, 9.99, 9.99, 9.98001, 18.0, 17.982]
MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
}


@pytest.fixture(params=MODES.values(), ids=MODES.keys())
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_estimate_by_hand(mode: dict[str, Any], variant: str) -> None:
    p: Any = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    q: Any = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    groups = [{"params": [p]}, {"params": [q], "lipschitz": 7.0}]
    optimizer = BPGrad(groups, "auto", rho=0.0, variant=variant, **mode)
    for norm, estimate in zip(NORMS, ESTIMATES, strict=True):
        p.grad = torch.tensor([norm], dtype=torch.float64)
        q.grad = torch.zeros(1, dtype=torch.float64)
        before = optimizer.step_size
        optimizer.step(loss=2.0)
        assert optimizer.lipschitz_estimate.item() == pytest.approx(estimate, rel=1e-15)
        if norm == norm:
            assert optimizer.step_size.item() == pytest.approx(2.0 / estimate, rel=1e-15)
            assert optimizer.param_groups[1]["step_size"].item() == pytest.approx(2.0 / 7.0)
        else:
            assert optimizer.step_size.item() == before.item()
    assert optimizer.exceeded_steps.item() == 1  # 9 > 7, the group with a number
    assert optimizer.param_groups[0]["max_grad_norm"].item() == 9.0


def test_without_a_gradient_but_0_nothing_moves(mode: dict[str, Any]) -> None:
    p: Any = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.zeros(3)
    optimizer = BPGrad([p], "auto", **mode)
    optimizer.step(loss=2.0)
    assert torch.equal(p.detach(), torch.ones(3))
    assert optimizer.step_size.item() == 0.0


def test_a_group_takes_auto_or_a_number() -> None:
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = BPGrad([{"params": [p], "lipschitz": "auto"}, {"params": [q]}], 4.0)
    assert [group["lipschitz"] for group in optimizer.param_groups] == ["auto", 4.0]


def problem(kind: str = "model") -> tuple[Any, Any, list[torch.Tensor], Callable[[Any], Any]]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(), torch.nn.Linear(6, 3)
    )
    batches = list(torch.randn(5, 8, 4))
    target = torch.arange(8) % 3
    first = net if kind == "model" else list(net.parameters())
    return net, first, batches, lambda x: torch.nn.functional.cross_entropy(net(x), target)


@pytest.mark.parametrize("kind", ["model", "params"])
def test_suggesting_leaves_everything_as_it_was(kind: str) -> None:
    net, given, batches, loss_fn = problem(kind)
    net[0].bias.requires_grad_(kind == "params")
    loss_fn(batches[0]).backward()
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    grads = [(p.grad, None if p.grad is None else p.grad.clone()) for p in net.parameters()]
    random = torch.get_rng_state()
    L = suggest_lipschitz(given, loss_fn, batches)
    assert L > 0
    assert torch.equal(torch.get_rng_state(), random)
    for p, (object_before, value) in zip(net.parameters(), grads, strict=True):
        assert p.grad is object_before
        assert value is None or torch.equal(p.grad, value)
    for name, value in net.state_dict().items():
        if kind == "model" or name in dict(net.named_parameters()):
            assert torch.equal(value, kept[name]), name


def test_what_is_suggested_is_twice_the_largest_norm_of_a_trial() -> None:
    p: Any = torch.nn.Parameter(torch.zeros(2))
    slopes = [torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0]), torch.tensor([12.3, 0.0])]
    assert suggest_lipschitz([p], lambda a: (a * p).sum() + 1.0, iter(slopes)) == 25.0
    assert torch.equal(p.detach(), torch.zeros(2))
    # ‖g + λw‖ of the paper's variant is what is compared with L
    p.data.fill_(30.0)
    assert suggest_lipschitz([p], lambda a: (a * p).sum(), slopes[:1], weight_decay=1.0) == 95.0


def test_a_failing_loss_leaves_everything_as_it_was() -> None:
    net, _, batches, loss_fn = problem()
    kept = [p.detach().clone() for p in net.parameters()]

    def fails(x: Any) -> Any:
        if x is batches[3]:
            raise KeyError("gone")
        return loss_fn(x)

    with pytest.raises(KeyError, match="gone"):
        suggest_lipschitz(net, fails, batches)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), kept, strict=True))


def test_parameters_are_given_as_to_an_optimizer() -> None:
    """Named or not, and in groups, which are left as they were."""
    p: Any = torch.nn.Parameter(torch.zeros(2))
    q: Any = torch.nn.Parameter(torch.zeros(2))
    net = torch.nn.ParameterDict({"p": p, "q": q})
    slopes = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])]
    groups = [{"params": [p]}, {"params": [("q", q)], "momentum": 0.5}]
    before = [dict(group) for group in groups]
    for given in (net, net.parameters(), net.named_parameters(), [p, q]):
        assert suggest_lipschitz(given, lambda a: (a * (p + q)).sum() + 9.0, slopes) == 8.5
    named = [groups[1], {"params": net.named_parameters("x")}]
    with pytest.raises(ValueError, match="more than one parameter group"):
        suggest_lipschitz(named, lambda a: (a * (p + q)).sum() + 9.0, slopes)
    assert suggest_lipschitz([groups[0], {"params": [q]}], lambda a: (a * p).sum(), slopes) == 6.0
    assert groups == before


@pytest.mark.parametrize("given", [torch.zeros(3, requires_grad=True), None, 3, ["weight"]])
def test_what_is_no_parameters_is_refused_as_an_optimizer_does(given: Any) -> None:
    with pytest.raises(TypeError) as ours:
        suggest_lipschitz(given, lambda a: a.sum(), [torch.ones(3)])
    with pytest.raises(TypeError) as theirs:
        torch.optim.SGD(given)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("slopes", "message"), [([], "got none"), ([0.0], "no finite gradient but 0 in 1 batches")]
)
def test_nothing_to_suggest(slopes: list[float], message: str) -> None:
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=message):
        suggest_lipschitz([p], lambda a: (a * p).sum(), slopes)
