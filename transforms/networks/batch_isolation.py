"""Run batches so that one image that the model cannot take costs one image, not the batch.

Knows nothing of Beam or TensorFlow: it drives any function from pixels to vectors that
raises `BatchRejected` and `BatchTooLarge`.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from transforms.errors import (
    BatchRejected,
    BatchTooLarge,
    BrokenModel,
    ImageError,
    InvalidEmbedding,
    RejectedImage,
)
from transforms.records import Pixels, Vector
from transforms.workers.worker_log import log_event

EmbedFunction = Callable[[Pixels], Vector]
"""`uint8 [n, height, width, 3]` -> `float32 [n, embedding width]`."""


class EmbeddedPixels(NamedTuple):
    """The vector of one image, and the places of the padded batch that it paid for."""

    vector: Vector
    batch_slots: float


Answer = EmbeddedPixels | ImageError


def padded_batch_size(count: int, largest: int) -> int:
    """Return the batch size that `count` images are padded to.

    The sizes are the powers of two below `largest`, and `largest` itself: the first call of a
    network with a new shape is slow (https://github.com/tensorflow/tensorflow/issues/41325),
    and always padding to the largest would make a small bundle pay for a full batch.

    Example:
        >>> [padded_batch_size(count, largest=24) for count in (1, 3, 9, 17, 24)]
        [1, 4, 16, 24, 24]
    """
    if not 1 <= count <= largest:
        raise ValueError(f"{count} images do not fit a batch of 1 to {largest}")
    return min(1 << (count - 1).bit_length(), largest)


class IsolatingEmbedder:
    """Embeds batches of images, and gives each image a vector or an error of its own.

    - Batches are padded to one of a few fixed sizes; the padding is dropped.
    - Out of memory halves the batch, and the size that fits is remembered.
    - A batch that the model rejects is split down to the images that are to blame.
    - NaN, Inf or a wrong width is an `InvalidEmbedding`, never a vector.

    All of its public surface is methods with picklable arguments and results, so that it works
    behind the proxy that Beam puts before a model shared by processes. Thread-safe when
    `embed` is.

    Example:
        >>> def mean_colour(pixels):
        ...     return pixels.mean(axis=(1, 2)).astype("float32")
        >>> embedder = IsolatingEmbedder(mean_colour, embedding_width=3, largest_batch=32)
        >>> embedder.embed_images([np.zeros((8, 8, 3), np.uint8)])[0].vector.tolist()
        [0.0, 0.0, 0.0]
    """

    def __init__(self, embed: EmbedFunction, *, embedding_width: int, largest_batch: int) -> None:
        self._embed = embed
        self._embedding_width = embedding_width
        self._largest_batch = largest_batch
        self._lock = threading.Lock()

    def embedding_width(self) -> int:
        """Return the number of values of each vector."""
        return self._embedding_width

    def largest_batch(self) -> int:
        """Return the largest batch that is known to fit, or that nothing has contradicted yet."""
        return self._largest_batch

    def embed_images(self, images: Sequence[Pixels]) -> list[Answer]:
        """Return one vector or one `ImageError` for each image, in order.

        Raises:
            BrokenModel: every image of the batch failed, so that no image is to blame; or one
                image alone is too much for the memory.
            Exception: whatever else the model raises.
        """
        answers: list[Answer] = []
        largest_before = self._largest_batch
        while len(answers) < len(images):
            rest = images[len(answers) :]
            answers.extend(self._embed_some(rest[: self._largest_batch]))
        if self._largest_batch < largest_before:
            log_event(logging.WARNING, "batch-reduced", images=self._largest_batch)
        if images and all(isinstance(answer, ImageError) for answer in answers):
            self._blame_model_or_images(images, answers)
        return answers

    def _embed_some(self, images: Sequence[Pixels]) -> list[Answer]:
        try:
            return self._embed_padded(images)
        except BatchTooLarge as error:
            if len(images) == 1:
                raise BrokenModel(
                    f"the device runs out of memory on a single image: {error}; "
                    "use a device with more memory or a smaller preprocess.size"
                ) from error
            with self._lock:
                too_large = padded_batch_size(len(images), max(len(images), self._largest_batch))
                self._largest_batch = max(1, min(self._largest_batch, too_large // 2))
            return self._embed_halves(images)
        except BatchRejected as error:
            if len(images) == 1:
                return [RejectedImage(f"the model rejects this image: {error}")]
            return self._embed_halves(images)

    def _embed_halves(self, images: Sequence[Pixels]) -> list[Answer]:
        middle = len(images) // 2
        return self._embed_some(images[:middle]) + self._embed_some(images[middle:])

    def _embed_padded(self, images: Sequence[Pixels]) -> list[Answer]:
        count = len(images)
        # A thread that saw the old limit may still hold a larger batch than the new one.
        size = padded_batch_size(count, max(count, self._largest_batch))
        batch = np.empty((size, *images[0].shape), np.uint8)
        for place, pixels in enumerate(images):
            batch[place] = pixels
        # Padding repeats an image: black pixels could upset a model that no photograph upsets.
        batch[count:] = batch[0]
        vectors = self._embed(batch)
        if vectors.ndim != 2 or len(vectors) != size:
            raise BrokenModel(
                f"the model gave an array of shape {list(vectors.shape)} for a batch of {size}; "
                f"expected {[size, self._embedding_width]}"
            )
        if vectors.shape[1] != self._embedding_width:
            wrong_width = f"the vector has {vectors.shape[1]} values, not {self._embedding_width}"
            return [InvalidEmbedding(wrong_width) for _ in images]
        finite = np.atleast_1d(np.isfinite(vectors).all(axis=1))
        slots = size / count
        return [
            EmbeddedPixels(vectors[place].copy(), slots)
            if finite[place]
            else InvalidEmbedding(_describe_values(vectors[place]))
            for place in range(count)
        ]

    def _blame_model_or_images(self, images: Sequence[Pixels], answers: Sequence[Answer]) -> None:
        first = answers[0]
        assert isinstance(first, ImageError)
        if len(images) > 1:
            raise BrokenModel(
                f"every image of a batch of {len(images)} failed, so the model is to blame, not "
                f"the images; the first: {type(first).__name__}: {first}"
            )
        # One image alone proves nothing, so a plain one is asked about: the last bundle of a
        # run may well hold one bad image only.
        try:
            witness = self._embed_padded([np.full_like(images[0], 128)])[0]
        except BatchRejected as error:
            witness = RejectedImage(str(error))
        if isinstance(witness, ImageError):
            raise BrokenModel(
                "the model fails on a plain grey image just as on this one, so the model is to "
                f"blame: {type(first).__name__}: {first}"
            )


def _describe_values(vector: Vector) -> str:
    not_a_number = int(np.isnan(vector).sum())
    infinite = int(np.isinf(vector).sum())
    return f"of the {vector.size} values of the vector, {not_a_number} are NaN and {infinite} Inf"
