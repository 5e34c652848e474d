"""One copy of a data set for all runs of a process, where several train side by side."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_copies: dict[Hashable, Any] | None = None


@contextmanager
def one_copy() -> Iterator[None]:
    """While entered, `shared` makes what belongs to a key once, and keeps it until the end."""
    global _copies
    before, _copies = _copies, {}
    try:
        yield
    finally:
        _copies = before


def shared(key: Hashable, make: Callable[[], T]) -> T:
    """What `make` returns, for its readers only; the copy that there is, inside `one_copy`."""
    if _copies is None:
        return make()
    if key not in _copies:
        _copies[key] = make()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # the others read it on other streams
    found: T = _copies[key]
    return found
