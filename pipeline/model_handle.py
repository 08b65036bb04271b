"""The handle of a model, with all that a worker elsewhere needs to find the same one."""

import dataclasses
import os

from transforms.errors import UnusableModel
from transforms.models.keras_handle import IMAGENET, is_keras_handle, parse_keras_handle
from transforms.storage.file_listing import is_remote, local_path


def complete_handle(handle: str, weights: str | None = None) -> str:
    """Return the handle with the weights in it, and with absolute local paths.

    Args:
        handle: `model.handle`.
        weights: `model.weights`; None: the handle says it all.

    Raises:
        UnusableModel: the weights do not belong to this handle.

    Example:
        >>> complete_handle("keras:inception_resnet_v2", "/models/mine.h5")
        'keras:inception_resnet_v2?weights=/models/mine.h5'
    """
    if is_keras_handle(handle):
        parsed = parse_keras_handle(handle)
        if weights and parsed.weights:
            raise UnusableModel(
                f"the model {handle} names its weights, and model.weights is {weights}; name them "
                "once"
            )
        weights = weights or parsed.weights
        if weights and weights != IMAGENET and not is_remote(weights):
            weights = local_path(weights)
        return str(dataclasses.replace(parsed, weights=weights))
    if weights:
        raise UnusableModel(
            f"model.weights is {weights}, but the model {handle} has its own; weights belong to a "
            "handle such as keras:inception_resnet_v2"
        )
    return local_path(handle) if os.path.exists(handle) else handle
