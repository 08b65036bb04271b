"""The stand-in model behind `untrained:inception_resnet_v2`: the right network, no training.

The trained weights of Inception-ResNet-v2 are not always at hand: on a machine without a
network, in a test, in a first try. This module builds the same network with seeded weights
and saves it with the interface of TF Hub's
https://tfhub.dev/google/imagenet/inception_resnet_v2/feature_vector/4, so that everything
round the weights is real. Its vectors tell photographs apart, and know nothing of what the
photographs show.

Every machine gets the same model. The weights need nothing but the integer generator of
`numpy.random.RandomState`, whose stream is frozen, and additions and multiplications, which
IEEE 754 rounds in one way only: no sine, logarithm or sum, whose last bit depends on the
library or on the number of threads. The statistics of the batch normalisation do depend on
such sums, and are therefore read from a file beside this module, which
`benchmarks/calibrate_untrained_model.py` made once from photographs.
"""

import math
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.models.built_model_cache import builder_versions, built_model_folder
from transforms.models.keras_networks import inception_resnet_v2
from transforms.models.reusable_module import batch_norm_layers, save_reusable_module

UNTRAINED_HANDLE = "untrained:inception_resnet_v2"

#: Stands behind the handle of such a model wherever a person reads it.
UNTRAINED_NOTE = " (untrained weights: a stand-in, not for use)"

#: Raised whenever anything would give another model than before.
RECIPE_VERSION = 1

#: Of the weights. The batch-norm statistics belong to these weights alone: under another
#: seed every two photographs are at cosine 0.998.
SEED = 0

INPUT_SIZE = 299
EMBEDDING_WIDTH = 1536
STATISTICS_FILE = "untrained_inception_resnet_v2_batch_norm.npz"

_NOTE = (
    "Untrained: seeded random weights, batch-norm statistics calibrated on photographs. "
    "Good for trying the pipeline out and for measuring its speed, not for search."
)


def untrained_model_folder(cache: str | None = None) -> str:
    """Return the folder of the untrained Inception-ResNet-v2, building it on the first call.

    The folder holds a TF2 SavedModel for `tensorflow_hub.load` and `tf.saved_model.load`
    (see `transforms.models.reusable_module` for its interface) and a `model.json` that says
    "untrained". It takes about 230 MB. The first call imports TensorFlow and takes tens of
    seconds; later ones import nothing and return at once.

    Whatever else happens, the folder is complete: it is built beside its place and renamed.
    Processes that ask at the same time wait for the one that builds, and what a killed
    build left behind is removed by the next.

    Args:
        cache: the folder to keep models in. By default EMBED_IMAGES_CACHE, or else
            `embed-images` in XDG_CACHE_HOME or in ~/.cache.

    Raises:
        UnusableModel: the cache cannot be written, or Keras is set up for another backend,
            layout or number format than the network needs.

    Example:
        >>> hub.load(untrained_model_folder())(images).shape  # doctest: +SKIP
        TensorShape([32, 1536])
    """
    name = f"untrained-inception_resnet_v2-seed{SEED}-recipe{RECIPE_VERSION}-{builder_versions()}"
    return built_model_folder(name, _save_model, "the untrained model", cache)


def _save_model(folder: Path) -> None:
    network = seeded_network()
    load_statistics(network)
    description = {
        "handle": UNTRAINED_HANDLE,
        "untrained": True,
        "input_height": INPUT_SIZE,
        "input_width": INPUT_SIZE,
        "embedding_width": EMBEDDING_WIDTH,
        "seed": SEED,
        "note": _NOTE,
    }
    save_reusable_module(network, folder, description)


def seeded_network() -> Any:
    """Build the Keras network with seeded weights and batch-norm statistics 0 and 1.

    Every variable has the same bytes in every process.

    Returns:
        See `transforms.models.keras_networks.inception_resnet_v2`.

    Raises:
        UnusableModel: Keras is set up in a way that would give another network.
    """
    network = inception_resnet_v2()
    random = np.random.RandomState(SEED)
    for layer in network.layers:
        for variable in layer.trainable_variables:
            variable.assign(_seeded_values(random, variable.name, tuple(variable.shape)))
    return network


def _seeded_values(
    random: np.random.RandomState, name: str, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    if name == "kernel":
        # The He-uniform range (https://arxiv.org/abs/1502.01852); a kernel is
        # [height, width, channels in, channels out].
        limit = math.sqrt(6.0 / math.prod(shape[:-1]))
    else:
        # Biases, and the offsets of batch normalisation: small beside its unit variance.
        limit = 0.1
    values = random.random_sample(shape) * (2.0 * limit) - limit
    return values.astype(np.float32)


def load_statistics(network: Any) -> None:
    """Give the network the committed batch-norm statistics.

    The file holds two flat float32 arrays, `moving_mean` and `moving_variance`: those of
    all layers of `batch_norm_layers`, one after the other.
    """
    layers = batch_norm_layers(network)
    with resources.files(__package__).joinpath(STATISTICS_FILE).open("rb") as file:
        statistics = np.load(file)
        for name in ("moving_mean", "moving_variance"):
            variables = [getattr(layer, name) for layer in layers]
            ends = np.cumsum([variable.shape[0] for variable in variables])
            parts = np.split(statistics[name], ends[:-1])
            for variable, values in zip(variables, parts, strict=True):
                variable.assign(values)
