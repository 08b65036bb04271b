"""Trying a model in several precisions: how far its vectors move, and how fast it is."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transforms.errors import UnusableModel
from transforms.networks.hub_model import HubImageModel
from transforms.records import Pixels, Precision, Vector

#: The cosine distance to float32 below which a precision changes nothing that a search shows:
#: rounding the resized image to 8 bits costs as much (docs/preprocessing.md).
LARGEST_DISTANCE = 1e-4

_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class PrecisionTrial:
    """What came of one precision."""

    precision: Precision
    distance: float
    """The largest cosine distance of a vector to that in float32."""
    seconds: float
    """For the trial batch, the fastest of three runs."""
    problem: str | None = None
    """Why the model cannot be run in it; then the rest says nothing."""

    def in_words(self, full: "PrecisionTrial") -> str:
        """Return what came of it, beside float32."""
        return self.problem or (
            f"{self.precision} moves vectors by {self.distance:.1e} in cosine distance, and takes "
            f"{self.seconds / full.seconds:.2f} of the time"
        )


def try_precisions(
    model: HubImageModel, precisions: Sequence[Precision], images: Pixels
) -> list[PrecisionTrial]:
    """Run a batch of images in float32 and in other precisions, by turns.

    Args:
        model: in float32.
        precisions: to compare with float32, that this machine computes in.
        images: `uint8 [n, height, width, 3]`.

    Returns:
        That of float32, and one for each precision in their order.

    Raises:
        BatchRejected, BatchTooLarge, tensorflow.errors.OpError: the model does not run.
    """
    models: dict[Precision, HubImageModel] = {"float32": model}
    problems: dict[Precision, str] = {}
    for precision in precisions:
        try:
            models[precision] = model.in_precision(precision)
        except UnusableModel as error:
            problems[precision] = str(error)
    # The first run of a batch size is slow.
    vectors = {precision: each.embed(images) for precision, each in models.items()}
    seconds = dict.fromkeys(models, float("inf"))
    for _ in range(_ROUNDS):
        for precision, each in models.items():
            start = time.perf_counter()
            each.embed(images)
            seconds[precision] = min(seconds[precision], time.perf_counter() - start)
    return [
        PrecisionTrial(precision, float("inf"), float("inf"), problems[precision])
        if precision in problems
        else PrecisionTrial(
            precision,
            largest_cosine_distance(vectors["float32"], vectors[precision]),
            seconds[precision],
        )
        for precision in dict.fromkeys(["float32", *precisions])
    ]


def fastest_faithful(trials: Sequence[PrecisionTrial]) -> Precision:
    """Return the fastest of the precisions whose vectors moved less than LARGEST_DISTANCE.

    Example:
        >>> trials = [PrecisionTrial("float32", 0.0, 2.0), PrecisionTrial("bfloat16", 2e-5, 1.0)]
        >>> fastest_faithful(trials)
        'bfloat16'
    """
    faithful = [each for each in trials if each.distance < LARGEST_DISTANCE]
    return min(faithful, key=lambda each: each.seconds).precision


def largest_cosine_distance(vectors: Vector, others: Vector) -> float:
    """Return the largest cosine distance of a vector to its other one; inf where one is not finite.

    Args:
        vectors: `float32 [n, width]`.
        others: the same shape.

    Example:
        >>> largest_cosine_distance(np.float32([[3, 4]]), np.float32([[6, 8]]))
        0.0
    """
    first, second = vectors.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    distances = 1 - (first * second).sum(axis=1) / np.maximum(lengths, 1e-30)
    return float(distances.max()) if np.isfinite(distances).all() else float("inf")
