"""Which pixels a model gets: its own input size, or the one that the user names."""

import re

from pipeline.config import PreprocessConfig
from transforms.errors import RequestError
from transforms.models.model_description import ModelDescription
from transforms.records import Preprocessing


def settle_preprocessing(
    preprocess: PreprocessConfig, handle: str, description: ModelDescription
) -> Preprocessing:
    """Return the preprocessing contract of a model.

    Raises:
        RequestError: the model takes images of any size, and nobody names one.

    Example:
        >>> settle_preprocessing(PreprocessConfig(), handle, description)  # doctest: +SKIP
    """
    if description.input_height and description.input_width:
        return preprocess.contract(description.input_height, description.input_width)
    if preprocess.size:
        return preprocess.contract(*preprocess.size)
    if re.search("inception[-_]resnet[-_]v2", handle, re.IGNORECASE):
        # Its hub pages name 299 x 299 as the size it was trained with; the graph takes any.
        return preprocess.contract(299, 299)
    raise RequestError(
        f"the model {handle} takes images of any size and names none; say which one with "
        "--set preprocess.size=[HEIGHT,WIDTH], or in Python with "
        "preprocess=PreprocessConfig(size=(HEIGHT, WIDTH))"
    )
