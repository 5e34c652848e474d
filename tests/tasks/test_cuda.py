"""On a GPU: detection and segmentation train twice with the same bits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bpgrad.training.trainer import train
from tests.tasks import test_detection, test_segmentation

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("compose", [test_detection.composed, test_segmentation.composed])
@pytest.mark.parametrize("micro_batch", ["null", "1"])
def test_training_twice_has_the_same_bits(
    compose: Callable[..., Any], micro_batch: str, tmp_path: Path
) -> None:
    settings = "device=cuda", "solver.lipschitz=2000", f"micro_batch={micro_batch}"
    one, two = (train(compose(tmp_path / folder, *settings)) for folder in ("one", "two"))
    assert one["weights_sha256"] == two["weights_sha256"]
    assert one["val_objective"] == two["val_objective"]
