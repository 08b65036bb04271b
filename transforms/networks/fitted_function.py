"""The function that a network is run by: frozen, folded, in its precision, and compared."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.errors import UnusableModel
from transforms.networks.folding import fold
from transforms.networks.frozen_graph import freeze, to_function
from transforms.networks.golden_vectors import generated_images
from transforms.networks.reduced_precision import reduce_precision
from transforms.networks.tensorflow_errors import one_line
from transforms.networks.vector_distance import largest_move
from transforms.records import Pixels, Precision
from transforms.workers.worker_log import log_event

#: How far a vector may move when a network is frozen and folded, in parts of its length. Those of
#: Inception-ResNet-v2 move by 2e-6; constants that were mixed up move them by 0.5 and more.
LARGEST_MOVE = 1e-4

#: The same in 16 bits: 0.013 in bfloat16 for Inception-ResNet-v2, 0.017 for MobileNet. It is to
#: find a graph that was put together wrongly; whether vectors are good enough is for a trial.
LARGEST_SHORT_MOVE = 0.1

#: How many images both functions are run on. These two take 2 seconds of processor time and 0.1 GB
#: at each load (Inception-ResNet-v2): a run of 128 photographs peaked at 2.67 GB, 2.55 GB without.
_COMPARED_IMAGES = 2


def fitted_function(function: Any, path: str, precision: Precision) -> Any:
    """Return the function with its batch norms folded, in another precision.

    In float32 that saves 6 % of the time, and moves vectors by 1e-12 (Inception-ResNet-v2). The
    result is compared with the function itself on two generated images. Where it differs, or a
    network cannot be frozen, float32 runs the function as it is, and 16 bits refuse it: no rule
    for rewriting graphs knows every graph that somebody has saved.

    Args:
        function: a `ConcreteFunction` from `uint8 [n, height, width, 3]` to outputs.
        path: of the model, for messages.
        precision: of the arithmetic.

    Raises:
        UnusableModel: it cannot be computed in 16 bits, or gives other vectors in them.
    """
    height, width = function.inputs[0].shape[1:3]
    try:
        graph = fold(freeze(function))
        if precision != "float32":
            graph = reduce_precision(graph, precision, generated_images(height, width))
        fitted = to_function(graph)
        images = generated_images(height, width, _COMPARED_IMAGES)
        moved = largest_move(_run(function, images), _run(fitted, images))
    # Whatever TensorFlow raises: in float32 there is nothing to lose but time.
    except Exception as error:
        if precision == "float32":
            _log_fallback(path, one_line(error))
            return function
        raise UnusableModel(
            f"{path} cannot be run in {precision}: {one_line(error)}; use model.precision=float32"
        ) from error
    if moved <= (LARGEST_MOVE if precision == "float32" else LARGEST_SHORT_MOVE):
        return fitted
    if precision == "float32":
        _log_fallback(path, f"vectors would move by {moved:.1e} of their length")
        return function
    raise UnusableModel(
        f"{path} cannot be run in {precision}: it gives other vectors than in float32, "
        f"{moved:.1%} of their length apart; use model.precision=float32"
    )


def _run(function: Any, images: Pixels) -> list[npt.NDArray[Any]]:
    import tensorflow as tf

    return [np.asarray(output) for output in function(tf.constant(images))]


def _log_fallback(path: str, reason: str) -> None:
    log_event(logging.INFO, "model-not-folded", model=path, reason=reason)
