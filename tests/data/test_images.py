import numpy as np
import pytest
import torch

from bpgrad.data.images import ImageSet, mean_centred


def numbered(n: int = 6, height: int = 4, width: int = 5, channels: int = 3) -> ImageSet:
    pixels = torch.arange(n * height * width * channels, dtype=torch.float32)
    return ImageSet.from_nhwc(pixels.view(n, height, width, channels), torch.arange(n) % 10)


def test_from_nhwc_is_a_view_in_torch_order() -> None:
    pixels = torch.rand(2, 4, 5, 3)
    images = ImageSet.from_nhwc(pixels, torch.zeros(2, dtype=torch.int64)).images
    assert images.shape == (2, 3, 4, 5)
    assert images[1, 2, 3, 4] == pixels[1, 3, 4, 2]
    assert images.data_ptr() == pixels.data_ptr()


@pytest.mark.parametrize("channels", [1, 3])
def test_batch_gathers_in_the_given_order_and_stays_channels_last(channels: int) -> None:
    data = numbered(channels=channels)
    indices = torch.tensor([4, 0, 4])
    images, labels = data.batch(indices)
    assert torch.equal(images, data.images[indices])
    assert torch.equal(labels, torch.tensor([4, 0, 4]))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.stride() == (4 * 5 * channels, 1, 5 * channels, channels)


def test_batch_is_a_copy() -> None:
    data = numbered()
    images, _ = data.batch(torch.tensor([0]))
    images.zero_()
    assert data.images[0].any()


def test_take_and_len() -> None:
    data = numbered(6)
    assert len(data) == 6
    assert len(data.take(2)) == 2
    assert torch.equal(data.take(2).images, data.images[:2])
    assert torch.equal(data.take(2).labels, data.labels[:2])
    assert len(data.take(100)) == 6
    assert torch.equal(data.take(3).batch(torch.tensor([2]))[0], data.images[2:3])


def test_to_keeps_the_memory_format() -> None:
    moved = numbered().to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert moved.images.stride() == numbered().images.stride()


@pytest.mark.parametrize(
    ("images", "labels", "problem"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "channels_last"),
        (torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64), "images: expected float32"),
        (torch.zeros(2, 1, 4, 4).double(), torch.zeros(2, dtype=torch.int64), "float64"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(3, dtype=torch.int64), "labels: expected int64"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2), "labels: expected int64"),
    ],
)
def test_inconsistent_tensors_are_refused(
    images: torch.Tensor, labels: torch.Tensor, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        ImageSet(images, labels)


def test_mean_centred_subtracts_the_training_mean_from_both() -> None:
    train = np.array([[[0, 255]], [[255, 255]]], np.uint8)
    val = np.array([[[1, 2]]], np.uint8)
    a, b = mean_centred((train, np.array([3, 4], np.uint8)), (val, np.array([5], np.uint8)))
    assert a.images.tolist() == [[[[-127.5, 0.0]]], [[[127.5, 0.0]]]]
    assert b.images.tolist() == [[[[-126.5, -253.0]]]]
    assert a.labels.tolist() == [3, 4]
    assert b.labels.tolist() == [5]
