import hashlib
from itertools import product

import numpy as np
import pytest
import torch

from bpgrad.data import order


def test_train_order_is_a_permutation() -> None:
    permutation = order.train_order(1000, seed=0, epoch=0)
    assert permutation.dtype == torch.int64
    assert permutation.device.type == "cpu"
    assert torch.equal(permutation.sort().values, torch.arange(1000))


def test_train_order_is_a_function_of_its_arguments() -> None:
    first = order.train_order(50, 3, 4)
    torch.manual_seed(99)
    torch.rand(10)
    assert torch.equal(order.train_order(50, 3, 4), first)


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    # Among them the pairs whose sum, or whose swap, is the same.
    orders = {
        tuple(order.train_order(20, seed, epoch).tolist())
        for seed, epoch in product(range(10), range(10))
    }
    assert len(orders) == 100


def test_order_of_a_record_can_be_made_again_years_later() -> None:
    # The committed records of MNIST, seed 0, hold this digest of the first epoch.
    indices = order.train_order(60_000, seed=0, epoch=1).numpy()
    assert indices.dtype == np.int64
    digest = hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()
    assert digest == "778b36115c2caf17352fb96d6fc779bd8e8dace3ca53c4a0c70e63929593aaf9"


def test_epoch_generator_starts_the_stream_of_the_order() -> None:
    generator = order.epoch_generator(1, 2)
    assert generator.device.type == "cpu"
    assert torch.equal(torch.randperm(30, generator=generator), order.train_order(30, 1, 2))


@pytest.mark.parametrize("phase", ["train", "val"])
def test_mirror_coins_are_fair(phase: order.Phase) -> None:
    coins = torch.cat([order.mirror_coins(500, 0, epoch, phase) for epoch in range(20)])
    assert coins.dtype == torch.bool
    assert coins.float().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 100)
    alternations = (coins[1:] != coins[:-1]).float().mean().item()
    assert alternations == pytest.approx(0.5, abs=4 * 0.5 / 100)


def test_mirror_coins_have_streams_of_their_own() -> None:
    phases: tuple[order.Phase, ...] = ("train", "val")
    streams = [
        tuple(order.mirror_coins(100, seed, epoch, phase).tolist())
        for seed, epoch, phase in product((0, 1, 2), (0, 1, 2), phases)
    ]
    streams.append(
        tuple(torch.randint(2, (100,), generator=order.epoch_generator(0, 0)).bool().tolist())
    )
    assert len(set(streams)) == len(streams)


def test_mirror_coins_of_a_shorter_epoch_are_the_first_ones() -> None:
    # So a reduced run sees the coins of the full one.
    full = order.mirror_coins(500, 0, 3, "train")
    assert torch.equal(order.mirror_coins(20, 0, 3, "train"), full[:20])
    assert torch.equal(order.mirror_coins(500, 0, 3, "train"), full)


@pytest.mark.parametrize(("seed", "epoch"), [(-1, 0), (2**32, 0), (0, -1)])
def test_numbers_out_of_range_are_refused(seed: int, epoch: int) -> None:
    with pytest.raises(ValueError, match="expected an integer from 0"):
        order.epoch_generator(seed, epoch)


def test_held_out_examples_are_drawn_once_and_for_all() -> None:
    kept, held = order.holdout_split(1000, 0.1)
    assert (len(kept), len(held)) == (900, 100)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(1000))
    assert 300 < held.double().mean() < 700  # from everywhere
    torch.manual_seed(99)
    assert torch.equal(order.holdout_split(1000, 0.1)[1], held)
    digest = hashlib.sha256(order.holdout_split(60_000, 0.1)[1].numpy().tobytes()).hexdigest()
    assert digest.startswith("fd761370c2cd6c51")
