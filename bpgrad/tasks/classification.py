"""Image classification: LeNet on the embedded digits, MNIST and CIFAR-10 (reference §1, §2)."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpgrad.data import cifar10, digits, mnist, order
from bpgrad.data.images import ImageSet, divided
from bpgrad.data.static import StaticBatches, consumed
from bpgrad.errors import ConfigError
from bpgrad.metrics import Metric
from bpgrad.models.lenet import CifarLeNet, DigitsLeNet, MnistLeNet, load_matconvnet_weights
from bpgrad.tasks.shared import shared
from bpgrad.tasks.task import Batch, Context, Task

EVAL_BATCH = 500


class Classification(Task):
    """What the three data sets share: the whole set lies on the device, preprocessed.

    `holdout`, a part of the training images, takes the place of the test images: for tuning. With
    `judge_test` the test images are evaluated beside it, as test_<metric>, and the training
    objective at fixed weights after each of the last five epochs. `label_noise` is the part of the
    labels trained on that is drawn at random, the same for every seed.
    """

    metrics: Mapping[str, Metric] = {
        "objective": Metric("objective"),
        "top1_error": Metric("top-1 error", "%"),
    }
    train_metrics: Sequence[str] = ("objective", "top1_error")
    static_shapes = True
    model_class: type[nn.Module]
    mirror_training = mirror_validation = False

    def __init__(
        self,
        context: Context,
        holdout: float = 0.0,
        label_noise: float = 0.0,
        judge_test: bool = False,
    ) -> None:
        self.context, self.world = context, context.world
        sizes = context.train_examples, context.val_examples
        options = sizes, holdout, label_noise, judge_test
        self.data_key = type(self), context.data_root, options, context.world.device
        self.train, self.judged = shared(self.data_key, lambda: self._sets(*options))
        if context.batch_size > len(self.train):
            raise ConfigError(
                f"batch_size={context.batch_size}: above the {len(self.train)} training examples"
            )
        self.val = self.judged[""]
        self.fixed_last = 5 if judge_test else 1

    def _sets(self, *options: Any) -> tuple[ImageSet, dict[str, ImageSet]]:
        train, judged = divided(*self.load(self.context), *options)
        device = self.world.device
        return train.to(device), {prefix: each.to(device) for prefix, each in judged.items()}

    @abstractmethod
    def load(self, context: Context) -> tuple[ImageSet, ImageSet]:
        """The images to train on, and those to test on."""

    def build_model(self, seed: int) -> nn.Module:
        model = self.model_class(torch.Generator().manual_seed(seed))
        return model.to(self.world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def preprocessed(self) -> Mapping[str, Tensor]:
        return {
            f"{name}_{part}": tensor
            for name, images in (("train", self.train), ("val", self.val))
            for part, tensor in (("rows", images.rows), ("labels", images.labels))
        }

    def batch_order(self, epoch: int) -> Tensor:
        return order.train_order(len(self.train), self.context.seed, epoch)

    def _minibatches(self, epoch: int) -> list[tuple[Tensor, bool]]:
        batches = self.batch_order(epoch).split(self.context.batch_size)
        coins = self._coins(self.mirror_training, len(batches), epoch, "train")
        return list(zip(batches, coins, strict=True))

    def train_batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for indices, mirrored in self._minibatches(epoch)[start:]:
            share = indices[self.world.rank :: self.world.size].to(self.world.device)
            images, labels = self.train.batch(share)
            images = images.flip(3) if mirrored else images
            yield Batch(images, labels, len(indices), consumed(indices, mirrored))

    @cached_property
    def _static(self) -> StaticBatches:
        return StaticBatches(self.train, self.context.batch_size, mirror=self.mirror_training)

    def load_epoch(self, epoch: int) -> Sequence[bytes]:
        return self._static.load(self._minibatches(epoch))

    def take(self, at: Tensor, size: int) -> tuple[Tensor, Tensor]:
        return self._static.take(at, size)

    def objective(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch.inputs)
        examples = batch.size / self.world.size
        with torch.no_grad():
            wrong = (logits.argmax(1) != batch.targets).sum()
        return {
            "objective": F.cross_entropy(logits, batch.targets, reduction="sum") / examples,
            "top1_error": wrong * (100 / examples),
        }

    def evaluate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        return {
            f"{prefix}{name}": value
            for prefix, images in self.judged.items()
            for name, value in self._evaluate(model, images, epoch, self.mirror_validation).items()
        }

    def evaluate_training(self, model: nn.Module) -> dict[str, float]:
        return self._evaluate(model, self.train)

    @torch.no_grad()
    def _evaluate(
        self, model: nn.Module, examples: ImageSet, epoch: int = 0, mirror: bool = False
    ) -> dict[str, float]:
        # Mirroring is a coin for every minibatch of the training size.
        size = self.context.batch_size if mirror else EVAL_BATCH
        batches = torch.arange(len(examples)).split(size)
        coins = self._coins(mirror, len(batches), epoch, "val")
        model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.world.device)
        for k in range(self.world.rank, len(batches), self.world.size):
            images, labels = examples.batch(batches[k].to(self.world.device))
            logits = model(images.flip(3) if coins[k] else images)
            sums[0] += F.cross_entropy(logits, labels, reduction="sum")
            sums[1] += (logits.argmax(1) != labels).sum()
        model.train()
        objective, wrong = self.world.sum_(sums).tolist()
        return {"objective": objective / len(examples), "top1_error": 100 * wrong / len(examples)}

    def _coins(
        self, mirror: bool, batches: int, epoch: int, phase: Literal["train", "val"]
    ) -> list[bool]:
        if not mirror:
            return [False] * batches
        return order.mirror_coins(batches, self.context.seed, epoch, phase).tolist()


class Digits(Classification):
    """scikit-learn's bundled 8×8 handwritten digits: real data that needs no download."""

    model_class = DigitsLeNet

    def load(self, context: Context) -> tuple[ImageSet, ImageSet]:
        return digits.load()

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return digits.MD5


class Mnist(Classification):
    """LeNet on MNIST (reference §1)."""

    model_class = MnistLeNet

    def load(self, context: Context) -> tuple[ImageSet, ImageSet]:
        return mnist.load(context.data_root, context.download)

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return mnist.MD5


class Cifar10(Classification):
    """LeNet on CIFAR-10 with contrast normalisation, ZCA and mirrored batches (reference §2).

    `mirror_validation` repeats a quirk of the original: validation batches are mirrored at random
    too. `initial_weights="released"` starts from the authors' file, whatever the seed; it lies at
    data_root/bpgrad/Weights_init_cifar10.mat.
    """

    model_class = CifarLeNet

    def __init__(
        self,
        context: Context,
        mirror_validation: bool = False,
        initial_weights: Literal["random", "released"] = "random",
        holdout: float = 0.0,
        label_noise: float = 0.0,
        judge_test: bool = False,
    ) -> None:
        super().__init__(context, holdout, label_noise, judge_test)
        self.mirror_training = True
        self.mirror_validation = mirror_validation
        self.initial_weights = initial_weights

    def load(self, context: Context) -> tuple[ImageSet, ImageSet]:
        return cifar10.load(context.data_root, context.download)

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return cifar10.MD5

    def build_model(self, seed: int) -> nn.Module:
        model = super().build_model(seed)
        assert isinstance(model, CifarLeNet)
        if self.initial_weights == "released":
            released = cifar10.INITIAL_WEIGHTS
            (file,) = released.md5
            load_matconvnet_weights(model, released.read(self.context.data_root, file))
        return model

    def lr_multipliers(self, model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, CifarLeNet)
        return model.lr_multipliers()
