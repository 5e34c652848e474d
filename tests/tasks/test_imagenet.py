"""AlexNet's task on a small generated set: the same batches everywhere, and how it is judged."""

import dataclasses
import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bpgrad.data.augmentation import central_crop, draws_of
from bpgrad.data.files import Source, tree_md5
from bpgrad.data.imagefolder import image_folder, read_rgb
from bpgrad.data.imagenet import Crops
from bpgrad.data.unpacked import Unpacked
from bpgrad.errors import ConfigError, DataError, Interrupted
from bpgrad.models.alexnet import AlexNet
from bpgrad.records.run_record import RunRecord
from bpgrad.tasks import imagenet as tasks
from bpgrad.tasks.imagenet import AGAIN, ImageNet, Imagenette
from bpgrad.tasks.task import Batch, Context
from bpgrad.training.config import load
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train
from bpgrad.world import World
from tests.data.images import make_image_folder

CPU = torch.device("cpu")
ONE = World(CPU)
SMALL: dict[str, Any] = {"resolution": 67, "width": 8, "reestimation_images": 10}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 15 validation images of three classes."""
    top = tmp_path_factory.mktemp("data")
    make_image_folder(top / "generated" / "train", images=8)
    make_image_folder(top / "generated" / "val", images=5)
    return top


@pytest.fixture(autouse=True)
def generated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generated images in the place of ImageNet's and Imagenette's."""
    md5 = {f"{part}/": tree_md5(root, f"generated/{part}") for part in ("train", "val")}
    source = Source("generated", "generated", md5, by_hand="make it")
    monkeypatch.setattr(ImageNet, "source", source)
    monkeypatch.setattr(Imagenette, "source", source)


def made(root: Path, kind: type[ImageNet] = ImageNet, **changes: Any) -> ImageNet:
    """A task; `changes` of the context or of the task's options."""
    fields = {field.name for field in dataclasses.fields(Context)}
    given = {"world": ONE, "data_root": root, "seed": 3, "batch_size": 10}
    context = Context(**(given | {k: v for k, v in changes.items() if k in fields}))  # type: ignore
    options = {k: v for k, v in changes.items() if k not in fields}
    return kind(context, **(SMALL | options))


def digest(batch: Batch) -> str:
    """Of all that a batch holds, and of what it says it consumed."""
    crops: Crops = batch.inputs
    parts = [crops.pixels, crops.shifts, batch.targets]
    parts += [] if crops.coins is None else [crops.coins]
    content = b"".join(part.numpy().tobytes() for part in parts) + batch.consumed
    return hashlib.sha256(content).hexdigest()


def digests(batches: Iterator[Batch]) -> list[str]:
    return [digest(batch) for batch in batches]


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_do_not_depend_on_the_workers(root: Path, workers: int) -> None:
    alone, others = made(root, batch_norm=False), made(root, batch_norm=False, workers=workers)
    for epoch in (1, 2):
        expected = digests(alone.train_batches(epoch))
        assert digests(others.train_batches(epoch)) == expected
        assert len(set(expected)) == 3


def test_batches_depend_on_seed_and_epoch(root: Path) -> None:
    seen = [
        found
        for seed in (0, 1)
        for epoch in (1, 2)
        for found in digests(made(root, seed=seed).train_batches(epoch))
    ]
    assert len(set(seen)) == len(seen) == 12


def test_a_batch_is_the_same_from_the_middle_of_an_epoch_on(root: Path) -> None:
    task = made(root)
    whole = digests(task.train_batches(2))
    assert digests(task.train_batches(2, start=1)) == whole[1:]
    assert digests(task.train_batches(2, start=3)) == []


def test_two_processes_share_what_one_reads(root: Path) -> None:
    """Rank r has every second example of the same minibatch, augmented alike."""
    alone = list(made(root).train_batches(1))
    shares = [list(made(root, world=OfTwo(CPU, r, 2)).train_batches(1)) for r in range(2)]
    for batch, *parts in zip(alone, *shares, strict=True):
        assert {part.consumed for part in parts} == {batch.consumed}
        assert {part.size for part in parts} == {batch.size}
        for rank, part in enumerate(parts):
            every = slice(rank, None, 2)
            assert torch.equal(part.inputs.pixels, batch.inputs.pixels[every])
            assert torch.equal(part.inputs.shifts, batch.inputs.shifts[every])
            assert torch.equal(part.targets, batch.targets[every])


class OfTwo(World):
    """One of two processes, whose first has done what it was to do for both."""

    def from_main(self, call: Callable[[], Any]) -> Any:
        return call()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_drawn_comes_with_the_crops(
    root: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The same bytes as drawn again, which this process need not do."""
    task = made(root, workers=workers)
    drawn: list[int] = []
    monkeypatch.setattr(
        tasks, "draws_of", lambda *key: (drawn.append(key[-1]), draws_of(*key))[1], raising=False
    )
    batches = [(batch, batch.consumed) for batch in task.train_batches(2)]
    assert drawn == []
    for (batch, consumed), indices in zip(batches, task.batch_order(2).split(10), strict=True):
        again = np.stack([draws_of(3, 2, index) for index in indices.tolist()])
        assert consumed == indices.numpy().tobytes() + again.tobytes()
        parts = batch.split(4)
        assert torch.equal(torch.cat([part.inputs.draws for part in parts]), torch.tensor(again))


def test_what_the_network_sees(root: Path) -> None:
    """Pixels minus the mean colour plus the shift; augmented in training, not in validation."""
    task = made(root)
    (batch, *_) = task.train_batches(1)
    crops: Crops = batch.inputs
    images = crops.images(task.mean)
    assert images.shape == (10, 3, 67, 67)
    assert images.is_contiguous(memory_format=torch.channels_last)
    expected = crops.pixels.double() - task.mean.double() + crops.shifts[:, None, None].double()
    torch.testing.assert_close(images.permute(0, 2, 3, 1).double(), expected, rtol=0, atol=1e-4)
    assert crops.shifts.any(dim=1).all()
    folder = image_folder(root / "generated" / "val")
    ((validation,), labels) = list(task.load(0, [list(range(24, 39))])), task.val_labels
    assert labels.tolist() == folder.labels.tolist()
    assert not validation.shifts.any()
    for k in (0, 7, 14):
        image = read_rgb(folder.path(k))
        assert (validation.pixels[k].numpy() == central_crop(*image.size).of(image, 67)).all()


def test_the_mean_is_that_of_the_training_images(root: Path) -> None:
    """Of fewer than 64 all are taken; each in the middle, at 256 × 256 pixels."""
    folder = image_folder(root / "generated" / "train")
    images = [read_rgb(folder.path(k)) for k in range(24)]
    squares = [central_crop(*image.size).of(image, 256) for image in images]
    expected = np.mean(squares, (0, 1, 2))
    np.testing.assert_allclose(made(root).mean.numpy(), expected, atol=1e-4)
    held = made(root, holdout=0.25)
    assert not np.allclose(held.mean.numpy(), expected, atol=1e-3)  # of those trained on alone
    (path, _) = sorted((root / "cache").glob("colours-*"), key=lambda p: p.stat().st_mtime)[:2]
    path.write_text("{}")
    np.testing.assert_allclose(made(root).mean.numpy(), expected, atol=1e-4)


def test_dropout_is_a_function_of_the_example(root: Path) -> None:
    task = made(root, batch_norm=False)
    (batch, *_) = task.train_batches(1)
    keep = batch.inputs.keep(16)
    assert keep.shape == (10, 16)
    assert keep.dtype == torch.bool
    assert 0.3 < keep.float().mean() < 0.7
    assert len({tuple(row.tolist()) for row in keep}) == 10
    model = task.build_model(0)
    first, second = (task.objective(model, batch)["objective"] for _ in range(2))
    assert torch.equal(first, second)
    logits = model(batch.inputs.images(task.mean), keep)
    torch.testing.assert_close(first, F.cross_entropy(logits, batch.targets))


def test_micro_batches_sum_to_the_whole_without_batch_normalisation(root: Path) -> None:
    task = made(root, batch_norm=False)
    model = task.build_model(0)
    (batch, *_) = task.train_batches(1)
    whole = task.objective(model, batch)
    parts = [task.objective(model, part) for part in batch.split(3)]
    assert [len(part.inputs) for part in batch.split(3)] == [3, 3, 3, 1]
    for name in task.train_metrics:
        torch.testing.assert_close(torch.stack([p[name] for p in parts]).sum(), whole[name])


def errors_of(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    order = logits.argsort(1, descending=True)
    hits = order == labels[:, None]
    return tuple(100 * float(1 - hits[:, :k].sum(1).float().mean()) for k in (1, 5))  # type: ignore


def test_objective_and_errors_of_a_batch(root: Path) -> None:
    task = made(root)
    model = task.build_model(0)
    (batch, *_) = task.train_batches(1)
    found = task.objective(model, batch)
    logits = model(batch.inputs.images(task.mean))
    torch.testing.assert_close(found["objective"], F.cross_entropy(logits, batch.targets))
    top1, top5 = errors_of(logits.detach(), batch.targets)
    assert float(found["top1_error"]) == pytest.approx(top1)
    assert float(found["top5_error"]) == pytest.approx(top5) == 0  # of three classes
    assert not found["top1_error"].requires_grad


def trained(task: ImageNet, epochs: int = 2) -> AlexNet:
    """A few steps of SGD: weights that know something, statistics that lag behind."""
    model = task.build_model(0)
    assert isinstance(model, AlexNet)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(1, epochs + 1):
        for batch in task.train_batches(epoch):
            optimizer.zero_grad()
            task.objective(model, batch)["objective"].backward()
            optimizer.step()
    return model


def test_both_kinds_of_statistics_are_reported(root: Path) -> None:
    task = made(root)
    model = trained(task)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = task.evaluate(model, 2)
    assert model.training
    assert set(found) == set(task.metrics)
    (crops,) = task.load(0, [list(range(24, 39))])
    model.eval()
    with torch.no_grad():
        moving = model(crops.images(task.mean))
    model.train()
    assert found["top1_error"] == pytest.approx(errors_of(moving, task.val_labels)[0])
    assert found["objective"] == pytest.approx(float(F.cross_entropy(moving, task.val_labels)))
    # The first ten of the epoch's order, as augmented in it: one batch, whose statistics they are.
    (batch, *_) = task.train_batches(2)
    model.bn1.sums = torch.zeros(3, 96, dtype=torch.float64)  # type: ignore[union-attr]
    with torch.no_grad():
        model(batch.inputs.images(task.mean))
    sums = model.bn1.sums
    count, total, _ = sums
    assert count.unique().tolist() == [10 * 15 * 15]
    assert float((total / count - model.bn1.running_mean).abs().max()) > 0  # type: ignore
    model.bn1.sums = None
    model.load_state_dict(before)
    assert found[f"objective{AGAIN}"] != found["objective"]
    assert task.evaluate(model, 2) == found  # nothing has moved
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    fixed = task.evaluate_training(model)
    assert set(fixed) == set(task.metrics)


def test_without_batch_normalisation_both_are_the_same(root: Path) -> None:
    task = made(root, batch_norm=False)
    found = task.evaluate(task.build_model(0), 1)
    for name in ("objective", "top1_error", "top5_error"):
        assert found[f"{name}{AGAIN}"] == found[name]


def test_validation_as_the_demo_did_while_it_trained(root: Path) -> None:
    """Crops of training, and statistics of shuffled batches of validation images."""
    plain, demo = made(root), made(root, validation="training")
    model = trained(plain)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = demo.evaluate(model, 1), demo.evaluate(model, 2)
    assert first["objective"] != second["objective"]  # other crops
    assert first[f"objective{AGAIN}"] == plain.evaluate(model, 1)[f"objective{AGAIN}"]
    assert demo.evaluate(model, 1) == first
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_tenth_is_held_out_of_training_images(root: Path) -> None:
    task = made(root, holdout=0.25)
    assert (len(task.labels), len(task.val_labels)) == (18, 6)
    whole = image_folder(root / "generated" / "train")
    both = torch.cat([task.labels, task.val_labels])
    assert both.bincount().tolist() == torch.from_numpy(whole.labels).bincount().tolist()
    (held,) = task.load(0, [list(range(18, 24))])
    (kept,) = task.load(0, [list(range(18))])
    images = [hashlib.md5(p.numpy().tobytes()).digest() for p in (*held.pixels, *kept.pixels)]
    assert len(set(images)) == 24


def test_fewer_examples_are_of_all_classes(root: Path) -> None:
    task = made(root, train_examples=12, val_examples=9)
    assert (len(task.labels), len(task.val_labels)) == (12, 9)
    assert task.labels.unique().tolist() == task.val_labels.unique().tolist() == [0, 1, 2]


def test_fewer_classes_are_an_option(root: Path) -> None:
    task = made(root, classes=2)
    assert (len(task.labels), len(task.val_labels)) == (16, 10)
    model = task.build_model(0)
    assert isinstance(model, AlexNet)
    assert model.fc8.out_channels == 2


def test_decoded_images_change_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = digests(made(root).train_batches(1))
    monkeypatch.setattr(ImageNet, "keep_decoded", True)
    assert digests(made(root).train_batches(1)) == expected
    assert len(list((root / "cache").glob("decoded-*.npy"))) >= 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 25}, "batch_size=25: above the 24 training examples"),
        ({"resolution": 66}, "task.resolution=66: AlexNet needs images of at least 67 pixels"),
        ({"width": 0}, "task.width=0: must be at least 1"),
        ({"classes": 1}, "task.classes=1: must be at least 2"),
        ({"reestimation_images": 0}, "task.reestimation_images=0: must be at least 1"),
        ({"holdout": 1.5}, "task.holdout=1.5: must be a part of the 24 training examples"),
        ({"batch_size": 23, "world": OfTwo(CPU, 0, 2)}, "last minibatch smaller than the 2 proc"),
    ],
)
def test_what_cannot_be_is_one_line(root: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        made(root, **changes)
    assert words in str(refused.value)


def test_what_was_found_of_images_goes_with_their_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a set that was unpacked: other files of the same archives are looked at again."""
    for part, images in (("train", 4), ("val", 1)):
        make_image_folder(tmp_path / "generated" / part, images=images)
    source = Unpacked("generated", "generated", {"archive": "0" * 32}, by_hand="make it")
    monkeypatch.setattr(ImageNet, "source", source)
    source.write_receipt(tmp_path)
    made(tmp_path)
    path = tmp_path / "generated/train/n02/n02_2.JPEG"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"n02/n02_2.JPEG \(changed\); make it"):
        made(tmp_path)
    source.write_receipt(tmp_path)
    with pytest.raises(DataError, match=r"n02_2.JPEG: cannot be read as an image \(image file is"):
        made(tmp_path)


def test_more_classes_than_there_are(root: Path) -> None:
    with pytest.raises(DataError, match=r"has 3 folders of classes, not 4$"):
        made(root, classes=4)


def test_classes_of_one_part_alone_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_image_folder(tmp_path / "generated" / "train", images=1)
    make_image_folder(tmp_path / "generated" / "val", ("n01", "n02", "n04"), images=1)
    monkeypatch.setattr(ImageNet, "source", Source("generated", "generated", {}))
    with pytest.raises(DataError, match="the class n03 is in train or in val alone"):
        made(tmp_path)


# -- through the trainer --------------------------------------------------------------------------


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], RunRecord]]:
    folders = (tmp_path / str(k) for k in range(9))

    def call(*overrides: str, folder: Path | None = None) -> tuple[dict[str, Any], RunRecord]:
        folder = next(folders) if folder is None else folder
        cfg = load([*overrides_of(root, folder), *overrides])
        record = RunRecord(Path(cfg.results_root), Path(cfg.checkpoint_root), run_name(cfg))
        return train(cfg), record

    return call


def overrides_of(root: Path, folder: Path) -> list[str]:
    options = [f"task.{key}={value}" for key, value in SMALL.items()]
    places = [f"data_root={root}", f"results_root={folder}/r", f"checkpoint_root={folder}/c"]
    return ["task=imagenette", *options, *places, *["epochs=2", "batch_size=10", "threads=1"]]


@pytest.mark.parametrize("solver", ["bpgrad", "sgd"])
def test_a_run_from_end_to_end(
    run: Callable[..., tuple[dict[str, Any], RunRecord]], solver: str
) -> None:
    result, record = run(f"solver={solver}", "workers=0")
    rows = record.rows()
    assert [row["iterations"] for row in rows] == [3, 6]
    assert set(Imagenette.metrics) == {
        name.removeprefix("val_") for name in rows[0] if name.startswith("val_")
    }
    assert list(Imagenette.metrics)[1] == "top1_error_reestimated"  # shown, and tuned by
    assert rows[1]["train_objective"] < rows[0]["train_objective"]
    assert result["fixed_top1_error"] == rows[-1]["fixed_top1_error"]
    assert record.meta()["starts"][0]["channels_last"] is True
    other, again = run(f"solver={solver}", "workers=2")
    assert (again.name, again.consumed()) == (record.name, record.consumed())
    assert other["weights_sha256"] == result["weights_sha256"]


def test_a_run_without_batch_normalisation_resumes_in_the_middle_of_an_epoch(
    run: Callable[..., tuple[dict[str, Any], RunRecord]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dropout goes on with the same units."""
    options = ["solver=sgd", "task.batch_norm=false", "workers=1"]
    whole, record = run(*options)
    step, steps = torch.optim.Optimizer.zero_grad, iter(range(100))

    def stop_in_the_second(self: torch.optim.Optimizer, *arguments: object) -> None:
        if next(steps) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Optimizer, "zero_grad", stop_in_the_second)
        with pytest.raises(Interrupted, match="epoch 1, iteration 2"):
            run(*options, folder=tmp_path / "cut")
    result, resumed = run(*options, folder=tmp_path / "cut")
    assert result["weights_sha256"] == whole["weights_sha256"]
    assert resumed.consumed() == record.consumed()


def test_decay_and_rates_reach_the_optimizer(root: Path) -> None:
    """Weights alone are decayed, by every solver; biases and γ learn twice as fast, by most."""
    from bpgrad.training.config import solver_spec
    from bpgrad.training.trial import make_solver

    task = made(root)
    for name, rated in (("sgd", True), ("adam", True), ("bpgrad", False), ("adadelta", False)):
        cfg = load(["task=imagenette", f"solver={name}"])
        model = task.build_model(0)
        names = {id(p): n for n, p in model.named_parameters()}
        rates, decays = task.lr_multipliers(model), task.decay_multipliers(model)
        solver = make_solver(solver_spec(cfg), model, rates, CPU, decays=decays)
        solver.set_learning_rate(1)
        given = cfg.solver["lr"], cfg.solver["weight_decay"]
        for group in solver.param_groups:
            for p in group["params"]:
                decay = 5e-4 * decays.get(names[id(p)], 1.0)
                assert group["weight_decay"] == decay == given[1] * (p.ndim == 4)
                factor = rates.get(names[id(p)], 1.0) if rated else 1.0
                assert group["lr"] == pytest.approx(given[0] * factor)


# -- the real images ------------------------------------------------------------------------------


@pytest.mark.realdata
def test_imagenette_is_what_it_should_be(imagenette_root: Path) -> None:
    """A few of its images, by the task's own way; nothing is decoded but these."""
    from bpgrad.data import imagenette

    imagenette.IMAGENETTE.verify(imagenette_root)
    top = imagenette_root / "imagenette2"
    folders = [image_folder(top / part) for part in ("train", "val")]
    assert [len(folder) for folder in folders] == [9469, 3925]
    assert len(folders[0].classes) == 10
    image = read_rgb(folders[0].path(0))
    assert image.size == (160, 160)
    assert central_crop(160, 160).of(image, 131).shape == (131, 131, 3)
    assert draws_of(0, 1, 0).shape == (7,)


def test_the_benchmark_of_the_pipeline(root: Path) -> None:
    from scripts.bench_input import bench

    overrides = [*overrides_of(root, root), "batch_size=4"]
    found = bench(overrides, batches=1, rounds=1, workers=[0, 1])
    assert set(found["images_per_second"]) == {
        "model",
        *(f"{what}, {k} workers" for what in ("pipeline", "both") for k in (0, 1)),
    }
    assert found["workers_that_the_model_needs"] in (None, 0, 1)
    with pytest.raises(ConfigError, match="task=digits holds its data in memory"):
        bench(["task=digits"], batches=1, rounds=1, workers=[0])


@pytest.mark.parametrize(("size", "examples"), [(7, 2), (9, 4), (8, 4), (8, 8), (3, 1)])
def test_every_process_has_as_many_micro_batches(size: int, examples: int) -> None:
    """Otherwise one would wait for the other's statistics for ever."""
    shares = [torch.arange(size)[rank::2] for rank in range(2)]
    parts = [Batch(share, share, size).split(examples, processes=2) for share in shares]
    assert len(parts[0]) == len(parts[1])
    for share, split in zip(shares, parts, strict=True):
        assert torch.equal(torch.cat([part.inputs for part in split]), share)
        assert all(len(part.inputs) <= examples for part in split)
