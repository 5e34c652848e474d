"""The ways to hand over the loss, and the state that checkpointing asks a new optimizer for."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed import fsdp
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.optim import ZeroRedundancyOptimizer

from bpgrad.optim import BPGrad, Eve, _loss_aware
from tests.forked import Fork

SOLVERS: dict[str, Callable[..., Any]] = {
    "bpgrad": lambda params: BPGrad(params, 5.0),
    "loop": lambda params: BPGrad(params, 5.0, foreach=False),
    "auto": lambda params: BPGrad(params, "auto"),
    "eve": Eve,
}


@pytest.fixture(params=SOLVERS.values(), ids=SOLVERS.keys())
def build(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param


def problem() -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    inputs = torch.randn(16, 4)
    return net, lambda: net(inputs).square().mean()


def train(net: torch.nn.Module, objective: Any, optimizer: Any, way: str, steps: int = 3) -> Any:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        if way == "observe":
            optimizer.observe(loss)
            assert torch.equal(optimizer.step(), loss)
        else:
            optimizer.step(loss=loss)
    return [p.detach().clone() for p in net.parameters()]


def test_an_observed_loss_is_the_loss_of_the_next_step(build: Callable[..., Any]) -> None:
    runs = []
    for way in ("observe", "loss"):
        net, objective = problem()
        runs.append(train(net, objective, build(net.parameters()), way))
    assert all(torch.equal(p, q) for p, q in zip(*runs, strict=True))


def test_an_observed_loss_serves_once(build: Callable[..., Any]) -> None:
    net, objective = problem()
    optimizer = build(net.parameters())
    objective().backward()
    optimizer.observe(7.0)
    optimizer.observe(2.0)  # of a step that a GradScaler has left out the first may remain
    assert optimizer.step() == 2.0
    three = r"exactly one of three ways: step\(loss=loss\), step\(closure\), or observe\(loss\)"
    with pytest.raises(ValueError, match=three + ".*given in none"):
        optimizer.step()
    optimizer.observe(1.0)
    for arguments in ({"loss": 1.0}, {"closure": lambda: 1.0}):
        with pytest.raises(ValueError, match=three + ".*in more than one"):
            optimizer.step(**arguments)


def test_an_observed_loss_keeps_no_graph(build: Callable[..., Any]) -> None:
    net, objective = problem()
    optimizer = build(net.parameters())
    optimizer.observe(objective())
    assert not optimizer._observed.requires_grad


@pytest.mark.parametrize(
    ("loss", "error"),
    [(torch.ones(2), ValueError), (torch.ones((), device="meta"), ValueError), ("1", TypeError)],
)
def test_a_wrong_loss_is_refused_when_it_is_observed(
    build: Callable[..., Any], loss: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="Expected"):
        build(problem()[0].parameters()).observe(loss)


def test_a_loss_in_the_place_of_the_closure(build: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"a Tensor in the place of the closure.*step\(loss=loss\)"):
        build(problem()[0].parameters()).step(torch.tensor(1.0))


def test_without_a_loss_a_first_step_at_a_rate_is_an_error(build: Callable[..., Any]) -> None:
    net, objective = problem()
    optimizer = build(net.parameters())
    objective().backward()
    with pytest.raises(ValueError, match="given in none"):
        optimizer.step()


@pytest.mark.parametrize("lr", [1.0, torch.tensor(1.0)])
def test_checkpointing_tools_make_the_state_and_change_nothing(
    build: Callable[..., Any], lr: Any
) -> None:
    net, _ = problem()
    optimizer = build(net.parameters())
    optimizer.param_groups[0]["lr"] = lr
    before = deepcopy(optimizer.state_dict()["param_groups"][0])
    weights = [p.detach().clone() for p in net.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = get_optimizer_state_dict(net, optimizer)
    assert {fqn: set(state) for fqn, state in found["state"].items()} == {
        fqn: {"exp_avg", "exp_avg_sq"} if isinstance(optimizer, Eve) else {"momentum_buffer"}
        for fqn, _ in net.named_parameters()
    }
    assert optimizer.state_dict()["param_groups"][0] == before
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), weights, strict=True))


def test_a_new_optimizer_takes_over_a_state(build: Callable[..., Any]) -> None:
    net, objective = problem()
    optimizer = build(net.parameters())
    train(net, objective, optimizer, "loss")
    other, same_objective = problem()
    other.load_state_dict(net.state_dict())
    heir = build(other.parameters())
    set_optimizer_state_dict(other, heir, get_optimizer_state_dict(net, optimizer))
    runs = [train(net, objective, optimizer, "loss"), train(other, same_objective, heir, "observe")]
    assert all(torch.equal(p, q) for p, q in zip(*runs, strict=True))


def test_a_compiled_step_is_refused_where_torch_gets_it_wrong(
    monkeypatch: pytest.MonkeyPatch, build: Callable[..., Any]
) -> None:
    monkeypatch.setattr(_loss_aware, "COMPILES", False)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(RuntimeError, match=r"a compiled step of .* is wrong in torch"):
        build(problem()[0].parameters()).step(loss=1.0)


def wrap(store: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    net = torch.nn.Linear(3, 2)
    BPGrad(net.parameters(), 5.0)  # not refused because the modules are there
    try:
        ZeroRedundancyOptimizer(net.parameters(), BPGrad, lipschitz=5.0)
    except RuntimeError as error:
        print(error)
    for p in net.parameters():
        p._fsdp_flattened = True  # type: ignore[attr-defined] # as FullyShardedDataParallel does
    try:
        BPGrad(net.parameters(), 5.0)
    except RuntimeError as error:
        print(error)


def test_wrappers_that_hand_out_parts_without_a_word_are_refused(tmp_path: Path) -> None:
    assert fsdp.FullyShardedDataParallel
    first, second = Fork(wrap, tmp_path / "store").result().splitlines()
    assert first.startswith("ZeroRedundancyOptimizer gives each rank a part of the parameters")
    assert second.startswith("FullyShardedDataParallel gives each rank a part of the parameters")
    assert "fully_shard" in first


def sharded(make: Callable[..., Any], seed: int) -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    fsdp.fully_shard(net, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
    return net, make(net.parameters())


def train_sharded(net: torch.nn.Module, optimizer: Any, x: torch.Tensor) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        optimizer.observe(mean / 2)
        optimizer.step()


def continued(rank: int, store: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(1)).chunk(2)[rank]
    for name in ("auto", "eve"):
        net, optimizer = sharded(SOLVERS[name], 0)
        train_sharded(net, optimizer, inputs)
        model_state, optimizer_state = get_state_dict(net, optimizer)
        folder = f"{store}{name}"
        dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)
        train_sharded(net, optimizer, inputs)
        other, heir = sharded(SOLVERS[name], 1)
        model_state, optimizer_state = get_state_dict(other, heir)
        state = {"model": model_state, "optimizer": optimizer_state}
        dcp.load(state, checkpoint_id=folder)
        set_state_dict(
            other, heir, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
        train_sharded(other, heir, inputs)
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.equal(p.full_tensor(), q.full_tensor()), name
        for key, value in optimizer.param_groups[0].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(heir.param_groups[0][key], value), (name, key)
    dist.barrier()


def test_a_sharded_run_continues_from_a_distributed_checkpoint(tmp_path: Path) -> None:
    for rank in [Fork(continued, rank, tmp_path / "store") for rank in range(2)]:
        rank.result()
