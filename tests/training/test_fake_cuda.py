"""An iteration on tensors that claim to be on CUDA: it needs no host, and mixes no devices.

Fake tensors have a device, a shape and a type, and no values: what would read one raises. Without a
GPU autograd cannot run on them; its part is done by hand.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from bpgrad.models.first_layer import WindowedConv2d
from bpgrad.tasks.classification import Classification
from bpgrad.tasks.task import Context
from bpgrad.training.config import Config, load, solver_spec, task_options
from bpgrad.training.iteration import Iterations
from bpgrad.training.solver import Solver
from bpgrad.world import World
from scripts.bench_gpu import GeneratedCifar10, GeneratedMnist
from tests.training.test_config import SOLVERS

TASKS: dict[str, type[Classification]] = {"mnist": GeneratedMnist, "cifar10": GeneratedCifar10}


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for what only a GPU can answer, and for what torch cannot do with fake modules."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(nn.Module, "to", moved)


def moved(model: nn.Module, device: torch.device, memory_format: torch.memory_format) -> nn.Module:
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            memory = memory_format if p.dim() == 4 else torch.contiguous_format
            setattr(module, name, nn.Parameter(p.detach().to(device, memory_format=memory)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return model


class ByHand(Solver):
    """Gradients of the right shape, device and type, wherever the objective has one."""

    def backward(self, objective: Tensor) -> None:
        assert objective.shape == ()
        assert objective.requires_grad
        assert objective.is_cuda
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p)


def iterations_of(cfg: Config, kind: type[Classification]) -> Iterations:
    """The iterations of a run of two minibatches an epoch, in which all tensors are fake."""
    world = World(torch.device("cuda", 0))
    context = Context(world, Path("nowhere"), 0, batch_size=4, train_examples=8, val_examples=4)
    task = kind(context, **task_options(cfg))
    model = task.build_model(0)
    solver = ByHand(solver_spec(cfg), model, task.lr_multipliers(model), world.device)
    solver.set_length(2, 2)
    columns = len(task.train_metrics) + len(solver.scalar_names)
    series = torch.zeros(2, columns, device=world.device)
    return Iterations(cfg, world, task, model, solver, series, [4, 4])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "settings",
    [
        # torch's fused SGD has no fake kernel
        *(f"{name} solver.fused=false" if name == "sgd" else name for name in SOLVERS),
        "bpgrad solver.schedule=cosine",
        "bpgrad solver.on_zero_gradient=random",
        "bpgrad solver.objective=previous_epoch_mean",
        "bpgrad micro_batch=2",
    ],
)
def test_an_iteration_needs_no_host(settings: str, task: str) -> None:
    solver, *more = settings.split()
    cfg = load([f"task={task}", f"solver={solver}", "batch_size=4", *more])
    with FakeTensorMode():
        iterations = iterations_of(cfg, TASKS[task])
        assert iterations.obstacle == ""
        iterations.solver.set_learning_rate(1)
        for _ in range(2):
            iterations._whole()
        state = iterations.solver.optimizers[0].state
        tensors = [v for each in state.values() for v in each.values() if torch.is_tensor(v)]
        # torch's Adagrad counts on the CPU, and reads that only for lr_decay
        on_cpu = {t.shape for t in tensors if t.device.type == "cpu"}
        assert on_cpu == ({torch.Size([])} if solver == "adagrad" else set())
        assert {
            p.grad.device.type for p in iterations.model.parameters() if p.grad is not None
        } == {"cuda"}


def test_the_first_layers_gradient_needs_no_host() -> None:
    with FakeTensorMode():
        images, gradient = (
            torch.zeros(2, channels, 8, 8, device="cuda").to(memory_format=torch.channels_last)
            for channels in (3, 5)
        )
        ctx = SimpleNamespace(
            saved_tensors=(images,), weight=torch.Size((5, 3, 5, 5)), padding=(2, 2)
        )
        _, weight, bias, _ = WindowedConv2d.backward(ctx, gradient)
        assert (weight.shape, bias.shape) == ((5, 3, 5, 5), (5,))
        assert weight.is_cuda
        assert bias.is_cuda


def test_what_reads_on_the_host_is_noticed() -> None:
    cfg = load(["task=mnist", "solver=bpgrad", "batch_size=4"])
    with FakeTensorMode():
        iterations = iterations_of(cfg, GeneratedMnist)
        iterations.solver.set_learning_rate(1)
        objective = iterations.task.objective

        def reading(model: torch.nn.Module, batch: object) -> dict[str, torch.Tensor]:
            found = objective(model, batch)  # type: ignore[arg-type]
            found["objective"].item()
            return found

        iterations.task.objective = reading  # type: ignore[assignment, method-assign]
        with pytest.raises(DataDependentOutputException):
            iterations._whole()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("solver=sgd step=eager", "step=eager"),
        ("solver=adagrad solver.lr_decay=0.1", "lr_decay"),
        ("solver=rmsprop +solver.capturable=false", "capturable=False"),
        ("solver=rmsprop +solver.schedule=cosine", "a learning rate on the host"),
        ("solver=sgd solver.optimizer=torch.optim.ASGD solver.momentum=null", "without the host"),
        ("solver=bpgrad +solver.closure=true", "without the host"),
    ],
)
def test_what_is_not_captured_says_why(settings: str, why: str) -> None:
    more = "solver.nesterov=null", "solver.fused=null"
    cfg = load(["task=mnist", *settings.split(), *(more if "ASGD" in settings else ())])
    with FakeTensorMode():
        assert why in iterations_of(cfg, GeneratedMnist).obstacle
