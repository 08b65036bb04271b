import threading

import numpy as np
import pytest

from transforms.errors import (
    BatchRejected,
    BatchTooLarge,
    BrokenModel,
    InvalidEmbedding,
    RejectedImage,
)
from transforms.networks.batch_isolation import EmbeddedPixels, IsolatingEmbedder, padded_batch_size

WIDTH = 4
POISON = 255
NOT_A_NUMBER = 254


class FakeNetwork:
    """A network of our own making, so that each fault can be planted exactly.

    The vector is the first pixel's red, four times. It records the batch sizes that it saw.
    """

    def __init__(self, *, fits: int = 1000, width: int = WIDTH, rejects_all: bool = False):
        self.fits = fits
        self.width = width
        self.rejects_all = rejects_all
        self.sizes: list[int] = []

    def __call__(self, batch):
        self.sizes.append(len(batch))
        if len(batch) > self.fits:
            raise BatchTooLarge(f"no room for {len(batch)}")
        first = batch[:, 0, 0, 0]
        if self.rejects_all or (first == POISON).any():
            raise BatchRejected("poison")
        vectors = np.repeat(first[:, None].astype(np.float32), self.width, axis=1)
        vectors[first == NOT_A_NUMBER] = np.nan
        return vectors


def images(*reds):
    return [np.full((2, 2, 3), red, np.uint8) for red in reds]


def embedder(network, largest_batch=8):
    return IsolatingEmbedder(network, embedding_width=WIDTH, largest_batch=largest_batch)


def reds_of(answers):
    return [
        int(answer.vector[0]) if isinstance(answer, EmbeddedPixels) else type(answer).__name__
        for answer in answers
    ]


@pytest.mark.parametrize(
    ("count", "largest", "size"),
    [(1, 32, 1), (2, 32, 2), (3, 32, 4), (17, 32, 32), (32, 32, 32), (9, 12, 12), (5, 12, 8)],
)
def test_a_batch_is_padded_to_the_next_fixed_size(count, largest, size):
    assert padded_batch_size(count, largest) == size


@pytest.mark.parametrize("count", [0, 33])
def test_a_batch_that_does_not_fit_has_no_padded_size(count):
    with pytest.raises(ValueError, match="1 to 32"):
        padded_batch_size(count, 32)


def test_every_image_gets_its_own_vector_in_order_and_padding_is_dropped():
    network = FakeNetwork()
    answers = embedder(network).embed_images(images(10, 20, 30, 40, 50))
    assert reds_of(answers) == [10, 20, 30, 40, 50]
    assert network.sizes == [8]
    assert [answer.batch_slots for answer in answers] == [8 / 5] * 5


def test_more_images_than_the_largest_batch_run_as_several_batches():
    network = FakeNetwork()
    assert reds_of(embedder(network, 4).embed_images(images(*range(1, 11)))) == list(range(1, 11))
    assert network.sizes == [4, 4, 2]


def test_a_vector_does_not_keep_its_batch_alive():
    (answer, _) = embedder(FakeNetwork()).embed_images(images(1, 2))
    assert answer.vector.base is None


def test_one_rejected_image_costs_one_image():
    answers = embedder(FakeNetwork()).embed_images(images(1, 2, POISON, 4, 5, 6, 7))
    assert reds_of(answers) == [1, 2, "RejectedImage", 4, 5, 6, 7]


def test_two_rejected_images_cost_two_images():
    answers = embedder(FakeNetwork()).embed_images(images(POISON, 2, 3, POISON))
    assert reds_of(answers) == ["RejectedImage", 2, 3, "RejectedImage"]


def test_a_vector_with_nan_is_invalid_and_the_others_are_kept():
    answers = embedder(FakeNetwork()).embed_images(images(1, NOT_A_NUMBER, 3))
    assert reds_of(answers) == [1, "InvalidEmbedding", 3]
    assert "4 are NaN" in str(answers[1])


def test_a_vector_with_inf_is_invalid():
    def network(batch):
        vectors = FakeNetwork()(batch)
        vectors[0, 1] = np.inf
        return vectors

    answers = embedder(network).embed_images(images(1, 2))
    assert reds_of(answers) == ["InvalidEmbedding", 2]
    assert "1 Inf" in str(answers[0])


@pytest.mark.parametrize("shape", [(2, WIDTH, 1), (3, WIDTH)])
def test_an_array_that_is_not_one_vector_an_image_breaks_the_model(shape):
    with pytest.raises(BrokenModel, match="gave an array of shape"):
        embedder(lambda batch: np.zeros(shape, np.float32)).embed_images(images(1, 2))


def test_padding_is_made_of_images_and_not_of_black():
    seen = []

    def network(batch):
        seen.append(batch[:, 0, 0, 0].tolist())
        return FakeNetwork()(batch)

    embedder(network).embed_images(images(5, 6, 7))
    assert seen == [[5, 6, 7, 5]]


def test_a_witness_that_gets_nan_blames_the_model():
    def network(batch):
        return np.full((len(batch), WIDTH), np.nan, np.float32)

    with pytest.raises(BrokenModel, match="plain grey image"):
        embedder(network).embed_images(images(1))


def test_a_batch_in_which_every_image_fails_breaks_the_model_and_not_the_images():
    with pytest.raises(BrokenModel, match="every image of a batch of 3 failed"):
        embedder(FakeNetwork(rejects_all=True)).embed_images(images(1, 2, 3))


def test_a_batch_of_nan_only_breaks_the_model():
    with pytest.raises(BrokenModel, match="InvalidEmbedding"):
        embedder(FakeNetwork()).embed_images(images(NOT_A_NUMBER, NOT_A_NUMBER))


def test_vectors_of_the_wrong_width_break_the_model():
    with pytest.raises(BrokenModel, match="5 values, not 4"):
        embedder(FakeNetwork(width=5)).embed_images(images(1, 2))


@pytest.mark.parametrize(
    ("red", "error"), [(POISON, RejectedImage), (NOT_A_NUMBER, InvalidEmbedding)]
)
def test_one_bad_image_alone_in_its_batch_fails_alone(red, error):
    (answer,) = embedder(FakeNetwork()).embed_images(images(red))
    assert isinstance(answer, error)


def test_a_broken_model_is_noticed_on_a_batch_of_one():
    with pytest.raises(BrokenModel, match="plain grey image"):
        embedder(FakeNetwork(rejects_all=True)).embed_images(images(1))


def test_out_of_memory_halves_the_batch_and_remembers_the_size_that_fits():
    network = FakeNetwork(fits=2)
    small = embedder(network, 8)
    assert reds_of(small.embed_images(images(*range(1, 9)))) == list(range(1, 9))
    assert small.largest_batch() == 2
    network.sizes.clear()
    assert reds_of(small.embed_images(images(*range(1, 9)))) == list(range(1, 9))
    assert network.sizes == [2, 2, 2, 2]


def test_out_of_memory_on_one_image_stops_the_job():
    with pytest.raises(BrokenModel, match="out of memory on a single image"):
        embedder(FakeNetwork(fits=0)).embed_images(images(1, 2))


def test_any_other_error_of_the_model_propagates():
    def fail(batch):
        raise ZeroDivisionError("planted")

    with pytest.raises(ZeroDivisionError, match="planted"):
        embedder(fail).embed_images(images(1, 2))


def test_no_images_give_no_answers():
    assert embedder(FakeNetwork()).embed_images([]) == []


def test_threads_share_one_embedder():
    shared = embedder(FakeNetwork(fits=2), 8)
    results = {}

    def work(start):
        results[start] = reds_of(shared.embed_images(images(*range(start, start + 8))))

    threads = [threading.Thread(target=work, args=(start,)) for start in (1, 50, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {start: list(range(start, start + 8)) for start in (1, 50, 100)}
