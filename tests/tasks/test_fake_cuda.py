"""The image tasks on a device that claims to be CUDA: no devices are mixed, no value is read early.

Images, boxes and masks are read and augmented on the CPU, where tensors have values. Those on the
device have none; what the host copies from it is zeros of the same shape, and noted.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from bpgrad.data import pretrained
from bpgrad.data.pretrained import Preprocessing
from bpgrad.models.backbones import squeezenet_trunk
from bpgrad.models.regions import MaxPooled
from bpgrad.tasks.detection import ReducedVocDetection
from bpgrad.tasks.segmentation import ReducedVocSegmentation
from bpgrad.tasks.task import Context, Task
from bpgrad.world import World
from tests.data.images import make_image_folder
from tests.tasks import test_detection, test_segmentation
from tests.tasks.generated_images import Generated
from tests.training.test_fake_cuda import moved

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)


class OnlyCudaIsFake(FakeTensorMode):
    """Tensors on a CUDA device have no values; what is on the CPU alone is computed.

    `read` has the name of every operator for which the host waits.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.read: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
        if CUDA not in devices and not any(isinstance(leaf, FakeTensor) for leaf in leaves):
            return func(*args, **kwargs)
        if func in (aten.cat.default, aten.stack.default):  # fake ones let numbers on the host pass
            assert {tensor.device for tensor in args[0]} == {CUDA}
        found = self.stand_in(func, args, kwargs)
        if found is None:
            return super().__torch_dispatch__(func, types, args, kwargs)
        self.read.append(func.overloadpacket.__name__)
        return found

    def stand_in(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What depends on values: 1 for a number, zeros for others, as many as there can be."""
        if func is aten._local_scalar_dense.default:
            return 1
        if func is aten._to_copy.default and kwargs.get("device") == torch.device("cpu"):
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return None


class Photos(ReducedVocDetection):
    """On photos that are generated, and weights as they are initialised."""

    def _read_photos(self) -> Any:
        return test_detection.Tiny._read_photos(self)  # type: ignore[arg-type]

    def _weights(self) -> tuple[Mapping[str, Tensor], Preprocessing]:
        return squeezenet()


class Masks(ReducedVocSegmentation):
    """On images that are generated, and weights as they are initialised."""

    def _read_pairs(self) -> Any:
        return test_segmentation.Tiny._read_pairs(self)  # type: ignore[arg-type]

    def _weights(self) -> tuple[Mapping[str, Tensor], Preprocessing]:
        return squeezenet()


def squeezenet() -> tuple[Mapping[str, Tensor], Preprocessing]:
    state = squeezenet_trunk().state_dict()
    return {f"features.{name}": p for name, p in state.items()}, pretrained.CAFFE_BGR


ALEXNET = {"resolution": 67, "width": 8, "reestimation_images": 8}
PHOTOS = {"proposals": "oracle", "short": 64}
MASKS = {"size": 64, "side": 64}
# The editions, their options, and what their evaluations read: numbers at the end; scores and boxes
# of each of three images, for suppression; the confusion matrices.
SUMS, EACH = "_local_scalar_dense", "_to_copy"
TASKS: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "imagenette": (Generated, ALEXNET, 6 * [SUMS]),
    "imagenette as in training": (Generated, {**ALEXNET, "validation": "training"}, 6 * [SUMS]),
    "imagenette with dropout": (Generated, {**ALEXNET, "batch_norm": False}, 6 * [SUMS]),
    "detection": (Photos, PHOTOS, [*(5 * [SUMS]), *(3 * 2 * [EACH])]),
    "detection on VGG-16": (test_detection.Tiny, {}, [*(5 * [SUMS]), *(3 * 2 * [EACH])]),
    "segmentation": (Masks, MASKS, [EACH, *(4 * [SUMS])]),
    "segmentation, moving": (
        *(Masks, {**MASKS, "deconvolution": "moving"}),
        [EACH, *(4 * [SUMS])],
    ),
    "segmentation, Caffe's form": (
        *(test_segmentation.Tiny, {"form": "caffe"}),
        [EACH, *(4 * [SUMS])],
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for part, images in (("train", 3), ("val", 1)):
        make_image_folder(folder / "generated" / part, images=images)
    return folder


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> OnlyCudaIsFake:
    monkeypatch.setattr(nn.Module, "to", moved)
    return OnlyCudaIsFake()


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
@pytest.mark.parametrize("name", TASKS)
def test_the_host_reads_what_it_is_meant_to(name: str, data: Path, device: OnlyCudaIsFake) -> None:
    kind, options, expected = TASKS[name]
    context = Context(World(CUDA), data, seed=0, batch_size=3, train_examples=3)
    with device:
        task: Task = kind(context, **options)
        model = task.build_model(0)
        (batch, *_) = task.train_batches(1)
        found = task.objective(model, batch)
        torch.stack([found[metric].detach().float() for metric in task.train_metrics])
        assert device.read == []
        task.evaluate(model, 1)
        assert Counter(device.read) == Counter(expected)
        task.evaluate_training(model)
        task.pictures(model)
        task.outputs(model)
    assert found.keys() == set(task.train_metrics)
    assert all(value.is_cuda and value.shape == () for value in found.values())
    assert found["objective"].requires_grad


def test_the_gradient_of_the_pooling_reads_nothing_from_the_device(device: OnlyCudaIsFake) -> None:
    with device:
        features, regions = torch.zeros(2, 3, 8, 9, device=CUDA), torch.zeros(5, 5, device=CUDA)
        ctx = SimpleNamespace(save_for_backward=lambda *tensors: saved.extend(tensors))
        saved: list[Tensor] = []
        found = MaxPooled.forward(ctx, features, regions)
        ctx.saved_tensors = tuple(saved)
        gradient, _ = MaxPooled.backward(ctx, found)
    assert gradient.shape == features.shape
    assert gradient.is_cuda
    assert device.read == []
