"""Two processes train the image tasks as one does, on a few generated images."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from bpgrad.data.voc import Pair, Photo, read_photo
from bpgrad.models.fast_rcnn import FastRcnn
from bpgrad.models.fcn32s import FCN32s
from bpgrad.records.run_record import RunRecord
from bpgrad.training.checkpoint import load as load_checkpoint
from bpgrad.training.config import Config, load
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train
from tests.data.images import make_image_folder
from tests.forked import Fork
from tests.tasks import test_detection, test_segmentation
from tests.tasks.test_detection import TEST, TRAIN
from tests.training.test_world import free_port
from tests.voc import mask_of

pytestmark = pytest.mark.slow


class Photos(test_detection.Tiny):
    """Those that are there, with scores of the first weights that differ."""

    def _read_photos(self) -> tuple[list[Photo], list[Photo]]:
        photos = [read_photo(self.context.data_root, f"00{k}") for k in range(TRAIN + TEST)]
        return photos[:TRAIN], photos[TRAIN:]

    def _build(self, generator: torch.Generator) -> FastRcnn:
        model = super()._build(generator)
        with torch.no_grad():
            model.classes.weight *= 30
        return model


class Masks(test_segmentation.Tiny):
    """Those that are there, with scores of the first weights that differ."""

    def _read_pairs(self) -> tuple[list[Pair], list[Pair]]:
        root = self.context.data_root
        pairs = [
            Pair(f"{k}", root / f"JPEGImages/{k}.jpg", mask_of(root, f"{k}"))
            for k in range(TRAIN + TEST)
        ]
        return pairs[:TRAIN], pairs[TRAIN:]

    def _build(self, generator: torch.Generator) -> FCN32s:
        model = super()._build(generator)
        test_segmentation.perturb(model)
        return model


# Of minibatches of 5 and of 2 images, of their micro-batches, and of the three images to judge by,
# the second process has fewer, or none.
DETECTION = [
    *("task=voc_detection", f"task.target={__name__}.Photos", "task.name=tiny", "scale=smoke"),
    *("task.feature_scale=null", "task.short=64", "task.long=100", "task.proposals=oracle"),
    "batch_size=5",
]
SEGMENTATION = [
    *("task=voc_segmentation", f"task.target={__name__}.Masks", "task.name=tiny", "scale=smoke"),
    *("task.size=64", "task.side=64", "batch_size=5"),
]
ALEXNET = [
    *("task=imagenette", "task.target=tests.tasks.generated_images.Generated", "batch_size=7"),
    *("task.resolution=67", "task.width=8", "task.initialisation=xavierimproved"),
]
# Weights that stand still count the same pixels and boxes. Others differ by roundings: these steps
# are so short that they do not grow into another trajectory.
STANDING, LEARNING = ["solver=sgd", "solver.lr=0"], ["solver=bpgrad", "solver.lipschitz=1000"]
SUMS = [*LEARNING, "solver.lipschitz=1e6"]  # of losses in the place of means, so that L is larger
RUNS = {
    "detection": [*DETECTION, *STANDING],
    "detection learns": [*DETECTION, *LEARNING],
    "detection in micro-batches": [*DETECTION, *SUMS, "micro_batch=1", "task.loss=sum"],
    "segmentation": [*SEGMENTATION, *STANDING],
    "segmentation in micro-batches": [*SEGMENTATION, *LEARNING, "micro_batch=1"],
    "segmentation in Caffe's form": [*SEGMENTATION, *SUMS, "+task.form=caffe"],
    "imagenette": [*ALEXNET, *STANDING, "task.batch_norm=false"],
    "imagenette in micro-batches": [*ALEXNET, *LEARNING, "task.batch_norm=false", "micro_batch=1"],
}
SMOOTH = re.compile("objective|classification|box|step_size|grad_norm")


def configured(folder: Path, name: str, side: str) -> Config:
    roots = [f"results_root={folder / side}/runs", f"checkpoint_root={folder / side}/c"]
    common = ["epochs=1", "threads=1", "workers=0", f"data_root={folder}/data"]
    return load([*RUNS[name], *roots, *common])


def train_as_rank(runs: Mapping[str, Config], ports: list[int]) -> None:
    for cfg, port in zip(runs.values(), ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        print("weights", train(cfg)["weights_sha256"])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have trained all the runs."""
    folder = tmp_path_factory.mktemp("ranks")
    for part, images in (("train", 3), ("val", 1)):
        make_image_folder(folder / "data/generated" / part, images=images)
    test_detection.tiny(folder / "data")
    test_segmentation.tiny(folder / "data")
    runs = {name: configured(folder, name, "both") for name in RUNS}
    ports = [free_port() for _ in runs]
    ranks = [
        Fork(
            *(train_as_rank, runs, ports),
            **{"RANK": str(rank), "LOCAL_RANK": str(rank)},
            **{"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
        )
        for rank in range(2)
    ]
    said = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(err for _, err in said)
    first, second = (re.findall("^weights (.+)$", out, re.MULTILINE) for out, _ in said)
    assert len(first) == len(runs)
    assert first == second  # to the bit
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_make_the_run_of_one(name: str, both: Path) -> None:
    cfg = configured(both, name, "alone")
    train(cfg)
    one, two = (
        RunRecord(both / side / "runs", both / side / "c", run_name(cfg))
        for side in ("alone", "both")
    )
    assert two.meta()["starts"][0]["machine"]["world_size"] == 2
    assert one.consumed() == two.consumed()
    (expected,), (row,) = one.rows(), two.rows()
    assert expected.keys() == row.keys()
    assert [key for key in row if SMOOTH.search(key)]
    for key, value in expected.items():
        if SMOOTH.search(key) or cfg.solver["name"] == "sgd":
            # Sums of up to a thousand terms of float32 in another order, each term to 2**-24.
            assert row[key] == pytest.approx(value, rel=1e-4, nan_ok=True), key
    weights = [
        load_checkpoint(record.checkpoints / "checkpoint.pt", one.name)["model"]  # type: ignore[index]
        for record in (one, two)
    ]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-5)
