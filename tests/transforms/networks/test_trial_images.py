"""What images that stand in for photographs are like."""

import numpy as np

from transforms.networks.trial_images import photograph_like_images


def test_they_are_the_same_each_time_and_differ_from_each_other() -> None:
    images = photograph_like_images(40, 60, 3)
    assert images.shape == (3, 40, 60, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, photograph_like_images(40, 60, 3))
    assert all((images[0] != other).mean() > 0.5 for other in images[1:])


def test_they_are_flat_with_a_few_sharp_edges_as_photographs_are() -> None:
    images = photograph_like_images(224, 224, 4).astype(float).mean(axis=3)
    steps = np.abs(np.diff(images, axis=2))
    assert np.median(steps) < 10
    assert (steps > 30).mean() > 0.003


def test_they_can_be_as_small_as_a_pixel() -> None:
    assert photograph_like_images(1, 1, 2).shape == (2, 1, 1, 3)
