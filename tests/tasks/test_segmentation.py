"""Objective, batches and evaluation of segmentation, on generated images and a narrow net."""

import dataclasses
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bpgrad.data.pretrained import Preprocessing
from bpgrad.data.voc import Pair
from bpgrad.errors import ConfigError, DataError
from bpgrad.models.fcn32s import FCN32s
from bpgrad.tasks.pictures import segmented
from bpgrad.tasks.segmentation import (
    ReducedVocSegmentation,
    Segmentation,
    Voc2012Segmentation,
    VocSegmentation,
)
from bpgrad.tasks.task import Context
from bpgrad.training.config import load, task_options
from bpgrad.training.trainer import train
from bpgrad.world import World
from tests.models.test_fcn32s import narrow, vgg_state
from tests.voc import square, write_pair

ONE = World(torch.device("cpu"))
TRAIN, TEST = 7, 3


class Tiny(Segmentation):
    """Seven images to train on and three to test on, below data_root; the last is all void."""

    def __init__(
        self,
        context: Context,
        size: int = 64,
        side: int | None = 64,
        form: str = "matconvnet",
        deconvolution: str = "frozen",
        augment: bool = True,
        dropout: bool = True,
        holdout: float = 0.0,
    ) -> None:
        super().__init__(context, size, side, form, deconvolution, augment, dropout, holdout)

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return {"generated": "0" * 32}

    def _read_pairs(self) -> tuple[list[Pair], list[Pair]]:
        masks = [square(40 + 3 * k, 62 - k, 1 + k % 2, 12 + 2 * k) for k in range(TRAIN + TEST)]
        masks[TRAIN - 1][:] = 255
        pairs = [
            write_pair(self.context.data_root, f"{k}", mask, k) for k, mask in enumerate(masks)
        ]
        return pairs[:TRAIN], pairs[TRAIN:]

    def _weights(self) -> tuple[Mapping[str, Tensor], Preprocessing]:
        return vgg_state(), Preprocessing((100.0, 100.0, 100.0), (50.0, 50.0, 50.0))

    def _build(self, generator: torch.Generator) -> FCN32s:
        form = "caffe" if self.caffe else "matconvnet"
        return narrow(form=form, dropout=self.dropout, moving=self.moving)


def tiny(folder: Path, changes: Mapping[str, Any] | None = None, **options: Any) -> Tiny:
    context = Context(ONE, folder, seed=3, batch_size=3)
    return Tiny(dataclasses.replace(context, **(changes or {})), **options)


# -- the objective -------------------------------------------------------------------------------


def test_a_loss_is_the_sum_over_the_valid_pixels_by_one_more_than_their_number(
    tmp_path: Path,
) -> None:
    """One valid pixel at uniform scores: ln 21 / 2. All void: 0, with gradients of 0."""
    task = tiny(tmp_path)
    scores = torch.zeros(3, 21, 4, 5, requires_grad=True)
    one, void = (torch.full((4, 5), 255, dtype=torch.uint8) for _ in range(2))
    one[1, 2] = 20
    full = torch.zeros(4, 5, dtype=torch.uint8)
    found = task.losses(scores, [one, void, full])
    expected = [math.log(21) / 2, 0, math.log(21) * 20 / 21]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    assert found[0].item() == pytest.approx(1.5223, abs=5e-5)
    found.sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert not scores.grad[1].any()


def test_it_is_the_mean_over_the_images_whatever_their_valid_pixels(tmp_path: Path) -> None:
    task = tiny(tmp_path, dropout=False)
    model = task.build_model(0)
    perturb(model)
    (*_, batch) = list(task.train_batches(1))[:2]
    each = [task.objective(model, part)["objective"].item() for part in batch.split(1)]
    whole = task.objective(model, batch)["objective"]
    assert float(whole) == pytest.approx(sum(each), rel=1e-5)
    images = torch.stack([image for image, _ in batch.inputs])
    labels = torch.stack(batch.targets).long()
    found = torch.log_softmax(model(images).double(), 1)
    by_hand = []
    for image, truth in zip(found, labels, strict=True):
        rows, columns = torch.nonzero(truth != 255, as_tuple=True)
        nll = -image[truth[rows, columns], rows, columns]
        by_hand.append(float(nll.sum()) / (len(rows) + 1))
    assert float(whole) == pytest.approx(np.mean(by_hand), rel=1e-5)


def perturb(model: torch.nn.Module) -> None:
    """Scores that differ from class to class."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        weight = model.score.weight  # type: ignore[union-attr]
        weight.copy_(torch.randn(weight.shape, generator=generator))  # type: ignore[union-attr, arg-type]


def test_the_caffe_form_sums_over_whole_images(tmp_path: Path) -> None:
    task = tiny(tmp_path, form="caffe")
    (batch, *_) = task.train_batches(1)
    sizes = {tuple(image.shape[1:]) for image, _ in batch.inputs}
    assert len(sizes) == 3
    valid = sum(int((labels != 255).sum()) for labels in batch.targets)
    objective = task.objective(task.build_model(0), batch)["objective"]
    assert float(objective) == pytest.approx(math.log(21) * valid / 3, rel=1e-5)
    assert task.evaluate(task.build_model(0), 1)["pixel_accuracy"] > 0


@pytest.mark.parametrize("form", ["matconvnet", "caffe"])
def test_a_process_without_an_example_adds_nothing(form: str, tmp_path: Path) -> None:
    """In a last micro-batch; its gradients are there, for those of the others wait for them."""
    task = tiny(tmp_path, form=form)
    model = task.build_model(0)
    perturb(model)
    (batch, *_) = task.train_batches(1)
    none = dataclasses.replace(batch, inputs=batch.inputs[3:], targets=batch.targets[3:])
    objective = task.objective(model, none)["objective"]
    objective.backward()
    assert objective.item() == 0
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert not p.grad.any(), name


def test_micro_batches_of_the_caffe_form_sum_to_the_whole(tmp_path: Path) -> None:
    task = tiny(tmp_path, form="caffe", dropout=False)
    model = task.build_model(0)
    perturb(model)
    (batch, *_) = task.train_batches(1)
    each = [task.objective(model, part)["objective"].item() for part in batch.split(2)]
    assert sum(each) == pytest.approx(float(task.objective(model, batch)["objective"]), rel=1e-5)


# -- batches -------------------------------------------------------------------------------------


def test_batches_depend_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    task = tiny(tmp_path)
    batches = list(task.train_batches(2))
    assert [batch.size for batch in batches] == [3, 3, 1]
    assert b"".join(batch.consumed[: 8 * batch.size] for batch in batches) == (
        task.batch_order(2).numpy().tobytes()
    )
    for start in range(3):
        again = list(tiny(tmp_path).train_batches(2, start))
        for one, other in zip(batches[start:], again, strict=True):
            assert one.consumed == other.consumed
            for (image, key), (its, its_key) in zip(one.inputs, other.inputs, strict=True):
                assert torch.equal(image, its)
                assert key == its_key
    assert batches[0].consumed != next(iter(tiny(tmp_path, {"seed": 4}).train_batches(2))).consumed


def test_the_last_by_name_are_held_out(tmp_path: Path) -> None:
    names = [f"{k}" for k in range(TRAIN + TEST)]
    task = tiny(tmp_path, holdout=0.3)
    assert [pair.name for pair in task.examples.pairs] == names[:TRAIN]
    assert task.examples.trained == 5
    assert [len(task.examples.warped), len(task.examples.tested)] == [2, 2]
    fewer = tiny(tmp_path, {"train_examples": 4, "val_examples": 2})
    assert [pair.name for pair in fewer.examples.pairs] == [*names[:4], *names[TRAIN : TRAIN + 2]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"holdout": 1.0}, "task.holdout=1.0: must be a part of the 7 training examples"),
        ({"holdout": 0.01}, "task.holdout=0.01: must be a part"),
        ({"form": "torch"}, "task.form=torch: choose one of matconvnet, caffe"),
        ({"deconvolution": "thawed"}, "task.deconvolution=thawed: choose one of frozen, moving"),
        ({"size": 31}, "task.size=31: must be at least 32 pixels"),
        ({"side": 8}, "task.side=8: must be at least 32 pixels"),
        ({"changes": {"batch_size": 8}}, "batch_size=8: above the 7 training examples"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        tiny(tmp_path, **options)
    assert words in str(refused.value)


# -- evaluation ----------------------------------------------------------------------------------


def test_uniform_scores_are_all_background_and_named_so(tmp_path: Path) -> None:
    task = tiny(tmp_path)
    model = task.build_model(0)
    found = task.evaluate(model, 1)
    assert found["collapsed"] == 1
    assert found["mean_iu"] == pytest.approx(found["background_iu"])
    assert found["mean_accuracy"] == pytest.approx(100 / 21)
    assert model.training
    assert set(task.metrics) <= found.keys()
    assert found["iu_background"] == pytest.approx(found["pixel_accuracy"])
    assert not task.evaluate_training(model).keys() - {*found}
    perturb(model)
    other = task.evaluate(model, 1)
    assert (other["mean_iu"] > other["background_iu"] + 1) == (other["collapsed"] == 0)


def test_the_table_is_the_same_in_every_epoch_and_the_curves_are_not(tmp_path: Path) -> None:
    task = tiny(tmp_path)
    model = task.build_model(0)
    perturb(model)
    one, other = task.evaluate(model, 1), task.evaluate(model, 2)
    assert one == task.evaluate(model, 1)
    same = {name for name in one if one[name] == other[name]}
    curves = {"objective", "warped_mean_iu", "warped_pixel_accuracy"}
    assert not curves & same
    assert {"mean_iu", "pixel_accuracy", "mean_accuracy", "average"} <= same


def test_the_table_counts_the_pixels_of_the_masks(tmp_path: Path) -> None:
    """Also where image and mask are tested at another size."""
    task = tiny(tmp_path)
    confusion = task._tested(task.build_model(0), task.examples.tested)
    valid = sum(int((task.examples[0, k].labels != 255).sum()) for k in task.examples.tested)
    assert int(confusion.sum()) == valid
    assert confusion.shape == (TEST, 21, 21)
    (kept,), large = (each.values() for each in task.outputs(task.build_model(0)))
    assert np.array_equal(np.load(io.BytesIO(kept))["confusion"], confusion)
    assert not large


# -- runs ----------------------------------------------------------------------------------------


def composed(folder: Path, *overrides: str) -> Any:
    own = ["task=voc_segmentation", "scale=smoke", f"task.target={__name__}.Tiny", "task.name=tiny"]
    places = [f"data_root={folder}/data", f"results_root={folder}/runs"]
    sizes = ["task.size=64", "task.side=64", "batch_size=3", "threads=1", "workers=0", "epochs=2"]
    return load([*own, *places, f"checkpoint_root={folder}/checkpoints", *sizes, *overrides])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("trained")
    cfg = composed(folder, "solver.lipschitz=2000")
    result = train(cfg)
    return result, folder / "runs" / result["run"]


def test_a_run_is_recorded_with_its_pictures(trained: tuple[dict[str, Any], Path]) -> None:
    result, folder = trained
    assert result["val_collapsed"] in (0, 1)
    assert {path.stem for path in (folder / "pictures").iterdir()} == {"7", "8", "9"}
    assert "train_objective" in (folder / "metrics.csv").read_text()


@pytest.mark.parametrize("overrides", [["workers=2"], ["micro_batch=1"]])
def test_workers_and_micro_batches_change_no_example(
    overrides: list[str], trained: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    result, folder = trained
    other = train(composed(tmp_path, "solver.lipschitz=2000", *overrides))
    consumed = (tmp_path / "runs" / other["run"] / "consumed.csv").read_bytes()
    assert consumed == (folder / "consumed.csv").read_bytes()
    if overrides == ["workers=2"]:
        assert other["weights_sha256"] == result["weights_sha256"]
    else:  # 4 steps, each with sums in another order
        assert other["train_objective"] == pytest.approx(result["train_objective"], rel=1e-4)


def test_a_run_that_collapsed_says_so_at_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate of 0 leaves the scores uniform."""
    train(composed(tmp_path, "solver=sgd", "solver.lr=0", "epochs=1"))
    assert "warning: collapsed to background: next to nothing is called" in capsys.readouterr().out


# -- the editions --------------------------------------------------------------------------------


def test_the_scale_chooses_the_edition() -> None:
    paper, reduced = (load(["task=voc_segmentation", f"scale={s}"]) for s in ("paper", "reduced"))
    assert paper.task["target"].endswith(VocSegmentation.__name__)
    assert reduced.task["target"].endswith(ReducedVocSegmentation.__name__)
    assert (paper.epochs, reduced.epochs, paper.batch_size, reduced.batch_size) == (50, 10, 20, 20)
    assert task_options(paper)["weights"] == "imagenet1k_v1"
    assert task_options(reduced) == {
        "size": 256,
        "side": 256,
        "deconvolution": "frozen",
        "augment": True,
        "dropout": True,
        "holdout": 0.0,
    }
    with pytest.raises(ConfigError, match=r"unknown task.form"):
        load(["task=voc_segmentation", "scale=reduced", "task.form=caffe"])
    of_2012 = load(["task=voc2012_segmentation", "solver=bpgrad"])
    assert of_2012.task["target"].endswith(Voc2012Segmentation.__name__)
    assert task_options(of_2012) == task_options(paper)
    assert (of_2012.epochs, of_2012.solver["lipschitz"]) == (50, 500)


def test_caffe_s_form_has_caffe_s_settings() -> None:
    cfg = load(["task=voc_segmentation", "solver=sgd", "task.form=caffe"])
    assert (cfg.batch_size, cfg.solver["lr"], cfg.solver["momentum"]) == (1, 1e-10, 0.99)
    other = load(["task=voc_segmentation", "solver=bpgrad", "task.form=caffe"])
    assert (other.batch_size, other.solver["lipschitz"]) == (1, 500)


def test_missing_data_is_one_line(tmp_path: Path) -> None:
    context = Context(ONE, tmp_path, seed=0, batch_size=20)
    for edition, words in (
        *((VocSegmentation, "VOC2011"), (Voc2012Segmentation, "VOC2012")),
        (ReducedVocSegmentation, "VOC2007"),
    ):
        with pytest.raises(DataError, match=words) as refused:
            edition(context)
        assert "\n" not in str(refused.value)


def test_a_picture_has_three_panels_and_a_legend() -> None:
    mask = square(50, 75, 15, 20)
    picture = segmented(np.zeros((50, 75, 3), np.uint8), {"truth": mask, "prediction": 0 * mask})
    assert picture.width == 3 * 200
    colors = {color for _, color in picture.getcolors(picture.width * picture.height) or []}
    assert {(0, 0, 0), (192, 128, 128), (224, 224, 192)} <= colors
