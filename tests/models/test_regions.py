import pytest
import torch
import torchvision  # noqa: F401  the operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bpgrad.models.regions import MaxPooled, max_pooled
from tests.models.test_fast_rcnn import pooling
from tests.models.test_fcn32s import seeded

SIZES = st.integers(1, 40)


def regions(n: int, height: int, width: int, count: int, generator: torch.Generator) -> Tensor:
    """Of n images, up to 20 pixels beyond their edges; some inverted, some on halves of a cell."""
    corners = torch.rand(count, 4, generator=generator)
    corners = corners * torch.tensor([16.0 * width + 40, 16.0 * height + 40] * 2) - 20
    corners[: count // 2] = (corners[: count // 2] / 8).round() * 8
    ordered = slice(count // 4, None)
    low, high = corners[ordered].view(-1, 2, 2).aminmax(dim=1)
    corners[ordered] = torch.cat([low, high], 1)
    images = torch.randint(0, n, (count, 1), generator=generator)
    return torch.cat([images.float(), corners], 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), SIZES, SIZES, st.sampled_from([1, 3, 64, 300]), st.integers(0, 2**32))
def test_of_many_regions_as_of_each(n: int, height: int, width: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 3, height, width, generator=generator)
    its = regions(n, height, width, count, generator)
    assert torch.equal(max_pooled(features, its), MaxPooled.apply(features, its))


def test_halves_are_rounded_away_from_zero_and_what_is_below_them_is_not() -> None:
    features = torch.arange(25.0).view(1, 1, 5, 5)
    below = torch.nextafter(torch.tensor(8.0), torch.tensor(0.0)).item()
    its = torch.tensor([[0, x, x, x, x] for x in (8, below, -8, 0)], dtype=torch.float32)
    assert max_pooled(features, its).amax((1, 2, 3)).tolist() == [6, 0, 0, 0]
    assert torch.equal(max_pooled(features, its), MaxPooled.apply(features, its))


@pytest.mark.parametrize("count", [0, 200])
def test_without_a_gradient_the_same_bits(count: int) -> None:
    features = torch.randn(2, 8, 25, 34, generator=seeded()).to(memory_format=torch.channels_last)
    its = regions(2, 25, 34, count, seeded())
    learning = pooling().pooled(features.requires_grad_(), its)
    with torch.no_grad():
        assert torch.equal(pooling().pooled(features, its), learning.detach())
