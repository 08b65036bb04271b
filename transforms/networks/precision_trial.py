"""Trying a model in several precisions: how far its vectors move, and how fast it is."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transforms.errors import BatchRejected, BatchTooLarge, UnusableModel
from transforms.networks.hub_model import HubImageModel
from transforms.networks.tensorflow_errors import one_line
from transforms.networks.vector_distance import cosine_distances
from transforms.records import Pixels, Precision, Vector

#: The mean cosine distance to float32 below which a precision changes nothing that a search shows:
#: rounding the resized image to 8 bits costs as much (docs/preprocessing.md).
LARGEST_MEAN_DISTANCE = 1e-4

#: The same for each vector. Of a trained MobileNet in bfloat16, the farthest of 128 photographs is
#: 1.5 times as far as the mean.
LARGEST_DISTANCE = 5e-4

#: The most images of a trial: more take no less time each on a CPU.
TRIAL_BATCH = 16

_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class PrecisionTrial:
    """What came of one precision."""

    precision: Precision
    mean_distance: float
    """In cosine distance to the vectors in float32."""
    largest_distance: float
    """The same, of the vector that moved most."""
    seconds: float
    """For the trial batch, the fastest of three runs."""
    problem: str | None = None
    """Why the model cannot be run in it; then the rest says nothing."""

    @property
    def faithful(self) -> bool:
        """Whether vectors in this precision are as good as those in float32."""
        return (
            self.problem is None
            and self.mean_distance < LARGEST_MEAN_DISTANCE
            and self.largest_distance < LARGEST_DISTANCE
        )

    def in_words(self, full: "PrecisionTrial") -> str:
        """Return what came of it, beside float32."""
        return self.problem or (
            f"{self.precision} moves vectors by {self.mean_distance:.1e} in cosine distance "
            f"({self.largest_distance:.1e} at most), and takes "
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
        UnusableModel: the vectors in float32 are not finite.
        BatchRejected, BatchTooLarge, tensorflow.errors.OpError: the model does not run in float32.
    """
    import tensorflow as tf

    exact = model.embed(images)
    if not np.isfinite(exact).all():
        raise UnusableModel(f"{model.description.path} gives NaN or Inf for the images of a trial")
    models: dict[Precision, HubImageModel] = {}
    vectors: dict[Precision, Vector] = {}
    problems: dict[Precision, str] = {}
    for precision in precisions:
        try:
            short = model.in_precision(precision)
            # The first run of a batch size is slow, and the one that may find too little memory.
            vectors[precision] = short.embed(images)
        except UnusableModel as error:
            problems[precision] = str(error)
        except (BatchRejected, BatchTooLarge, tf.errors.OpError) as error:
            problems[precision] = (
                f"{model.description.path} fails in {precision}: {one_line(error)}"
            )
        else:
            models[precision] = short
    seconds = dict.fromkeys(("float32", *models), float("inf"))
    for _ in range(_ROUNDS):
        for precision, each in {"float32": model, **models}.items():
            start = time.perf_counter()
            each.embed(images)
            seconds[precision] = min(seconds[precision], time.perf_counter() - start)
    trials = [PrecisionTrial("float32", 0.0, 0.0, seconds["float32"])]
    for precision in precisions:
        if precision in problems:
            nothing = (float("nan"),) * 3
            trials.append(PrecisionTrial(precision, *nothing, problem=problems[precision]))
            continue
        distances = cosine_distances(exact, vectors[precision])
        mean, largest = float(distances.mean()), float(distances.max())
        trials.append(PrecisionTrial(precision, mean, largest, seconds[precision]))
    return trials


def fastest_faithful(trials: Sequence[PrecisionTrial]) -> Precision:
    """Return the fastest of the precisions that keep the vectors, one of which is float32.

    Example:
        >>> full = PrecisionTrial("float32", 0.0, 0.0, 2.0)
        >>> fastest_faithful([full, PrecisionTrial("bfloat16", 2e-5, 4e-5, 1.0)])
        'bfloat16'
    """
    return min((each for each in trials if each.faithful), key=lambda each: each.seconds).precision
