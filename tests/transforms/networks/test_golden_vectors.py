import hashlib

import numpy as np
import pytest

from transforms.models.untrained_model import EMBEDDING_WIDTH, INPUT_SIZE, UNTRAINED_HANDLE
from transforms.networks.golden_vectors import generated_images, golden_vectors


def test_generated_images_are_the_same_bytes_everywhere():
    images = generated_images(INPUT_SIZE, INPUT_SIZE)
    assert images.shape == (6, INPUT_SIZE, INPUT_SIZE, 3)
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    assert digest == "98ec6d7c758bac74ba00e5beb17bab7288304552bcb11bb885ad4b6fc4e3a505"


def test_generated_images_have_light_dark_and_differ():
    images = generated_images(32, 48).astype(float)
    assert all(image.std() > 20 for image in images)
    means = images.mean(axis=(1, 2))
    assert all(np.abs(means[a] - means[b]).max() > 1 for a in range(len(means)) for b in range(a))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (75, 40)])
def test_images_of_any_size_are_generated(size):
    assert generated_images(*size, count=2).shape == (2, *size, 3)


def test_golden_vectors_of_the_untrained_network_are_known():
    golden = golden_vectors(UNTRAINED_HANDLE)
    assert golden is not None
    assert (golden.height, golden.width) == (INPUT_SIZE, INPUT_SIZE)
    assert golden.vectors.shape == (2, EMBEDDING_WIDTH)
    assert golden.vectors.dtype == np.float32
    assert np.isfinite(golden.vectors).all()


def test_of_a_model_that_nobody_knows_there_are_none():
    assert golden_vectors("https://tfhub.dev/google/yamnet/1") is None
