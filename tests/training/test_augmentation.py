"""Crops and flips against one image after another, and the laws of what is drawn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emphasis.training.augmentation import crop_flip, draw_offsets, normalize, random_crop_flip


def slow_crop_flip(images, tops, lefts, flipped, padding):
    """One image after another, by numpy."""
    height, width = images.shape[2:]
    results = []
    for image, top, left, flip in zip(images, tops.tolist(), lefts.tolist(), flipped.tolist(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        window = padded[:, top : top + height, left : left + width]
        results.append(window[:, :, ::-1] if flip else window)
    return np.stack(results)


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    padding=st.integers(0, 5),
    flip=st.booleans(),
    floating=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_batch_is_cut_as_image_after_image_is(shape, padding, flip, floating, channels_last, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, shape, generator=generator).to(torch.float32 if floating else torch.uint8)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    given_images = images.clone()
    offsets = draw_offsets(len(images), torch.Generator().manual_seed(seed), room=2 * padding, flip=flip)
    expected = torch.from_numpy(slow_crop_flip(images.numpy(), *offsets, padding))
    assert torch.equal(crop_flip(images, *offsets, padding=padding), expected)
    whole = random_crop_flip(images, torch.Generator().manual_seed(seed), padding=padding, flip=flip)
    assert torch.equal(whole, expected)
    assert whole.dtype == images.dtype
    assert torch.equal(images, given_images)


def test_a_batch_of_cifar_s_size_is_cut_as_image_after_image_is():
    images = torch.randint(256, (128, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    offsets = draw_offsets(128, torch.Generator().manual_seed(1))
    assert len(set(zip(*(part.tolist() for part in offsets), strict=True))) > 64
    assert np.array_equal(crop_flip(images, *offsets).numpy(), slow_crop_flip(images.numpy(), *offsets, 4))


def chi_square(counts):
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum()


def test_offsets_and_flips_are_uniform_and_independent():
    number = 162_000
    tops, lefts, flipped = draw_offsets(number, torch.Generator().manual_seed(2))
    cells = np.bincount(((tops * 9 + lefts) * 2 + flipped).numpy(), minlength=162)
    assert cells.shape == (162,)
    assert chi_square(cells) < 222.19  # the 0.999 quantile with 161 degrees of freedom
    assert chi_square(cells.reshape(81, 2).sum(1)) < 124.84  # 80 degrees of freedom
    assert chi_square(cells.reshape(81, 2).sum(0)) < 10.83  # 1 degree of freedom


def test_without_flips_none_is_drawn_and_the_crops_stay_the_same():
    with_flips = draw_offsets(50, torch.Generator().manual_seed(0))
    without = draw_offsets(50, torch.Generator().manual_seed(0), flip=False)
    assert torch.equal(with_flips[0], without[0])
    assert torch.equal(with_flips[1], without[1])
    assert not without[2].any()


def test_the_generator_alone_decides_and_the_global_one_stays():
    images = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8)
    before = torch.get_rng_state()
    first = random_crop_flip(images, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(first, random_crop_flip(images, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, random_crop_flip(images, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalised_images_equal_the_formula_in_double_precision(channels_last):
    images = torch.randint(256, (5, 3, 7, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.25, 0.24, 0.26])
    outputs = normalize(images, mean, std, channels_last=channels_last)
    formula = (images.double() / 255 - mean.double().view(3, 1, 1)) / std.double().view(3, 1, 1)
    assert outputs.dtype == torch.float32
    assert outputs.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert (outputs - formula).abs().max() < 2e-6


def test_bad_arguments_are_refused():
    generator = torch.Generator()
    with pytest.raises(ValueError, match=r"\(N, channels, H, W\), got \(3, 4, 4\)"):
        random_crop_flip(torch.zeros(3, 4, 4), generator)
    with pytest.raises(ValueError, match="padding=-1"):
        random_crop_flip(torch.zeros(1, 3, 4, 4), generator, padding=-1)
