import io
import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

Params = list[Any]  # torch.nn.Parameter: mypy cannot know that their gradients are set
Transfer = Callable[[Params, Any, Callable[[Params], Any]], tuple[Params, Any]]


class FailOnHostRead(TorchDispatchMode):
    """Raises when a tensor's value is read by the host: item, float, bool, an `if` on a tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            raise AssertionError(f"the host reads a tensor: {func}")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_host_read() -> FailOnHostRead:
    return FailOnHostRead()


def through_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def transfer_by_state_dict(
    params: Params, optimizer: Any, rebuild: Callable[[Params], Any]
) -> tuple[Params, Any]:
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = rebuild(copies)
    other.load_state_dict(optimizer.state_dict())
    return copies, other


def transfer_by_file(
    params: Params, optimizer: Any, rebuild: Callable[[Params], Any]
) -> tuple[Params, Any]:
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = rebuild(copies)
    other.load_state_dict(through_file(optimizer.state_dict()))
    return copies, other


def transfer_by_deepcopy(
    params: Params, optimizer: Any, rebuild: Callable[[Params], Any]
) -> tuple[Params, Any]:
    return deepcopy((params, optimizer))


def transfer_by_pickle(
    params: Params, optimizer: Any, rebuild: Callable[[Params], Any]
) -> tuple[Params, Any]:
    return pickle.loads(pickle.dumps((params, optimizer)))


@pytest.fixture(
    params=[transfer_by_state_dict, transfer_by_file, transfer_by_deepcopy, transfer_by_pickle],
    ids=["state_dict", "file", "deepcopy", "pickle"],
)
def transfer(request: pytest.FixtureRequest) -> Transfer:
    """A way to continue elsewhere: (params, optimizer, rebuild) -> (params, optimizer)."""
    return request.param
