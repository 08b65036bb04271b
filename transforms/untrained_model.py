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

import contextlib
import fcntl
import importlib.metadata
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.errors import UnusableModel

UNTRAINED_HANDLE = "untrained:inception_resnet_v2"

#: Raised whenever anything would give another model than before.
RECIPE_VERSION = 1

#: Of the weights. The batch-norm statistics belong to these weights alone: under another
#: seed every two photographs are at cosine 0.998.
SEED = 0

INPUT_SIZE = 299
EMBEDDING_WIDTH = 1536
STATISTICS_FILE = "untrained_inception_resnet_v2_batch_norm.npz"

#: What a complete model folder holds; one that lacks a file is built again.
_MODEL_FILES = (
    "saved_model.pb",
    "model.json",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
)

_NOTE = (
    "Untrained: seeded random weights, batch-norm statistics calibrated on photographs. "
    "Good for trying the pipeline out and for measuring its speed, not for search."
)


_log = logging.getLogger(__name__)


def untrained_model_folder(cache: str | None = None) -> str:
    """Return the folder of the untrained Inception-ResNet-v2, building it on the first call.

    The folder holds a TF2 SavedModel for `tensorflow_hub.load` and `tf.saved_model.load`
    (see `reusable_module` for its interface) and a `model.json` that says "untrained". It
    takes about 230 MB. The first call imports TensorFlow and takes tens of seconds; later
    ones import nothing and return at once.

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
    root = Path(cache) if cache is not None else _default_cache()
    name = (
        f"untrained-inception_resnet_v2-seed{SEED}-recipe{RECIPE_VERSION}"
        f"-tensorflow{importlib.metadata.version('tensorflow')}"
        f"-keras{importlib.metadata.version('keras')}"
    )
    folder = root.absolute() / name
    if _is_complete(folder):
        return str(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_builder(folder):
            if not _is_complete(folder):
                _build_in_place(folder)
    except OSError as error:
        raise UnusableModel(
            f"the untrained model cannot be kept in {folder.parent}: {error}; set "
            "EMBED_IMAGES_CACHE to a folder that can be written and has 250 MB free"
        ) from error
    return str(folder)


def _default_cache() -> Path:
    own = os.environ.get("EMBED_IMAGES_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "embed-images"


def _is_complete(folder: Path) -> bool:
    # Whoever clears a cache by the age of its files leaves half a folder.
    return all((folder / file).is_file() for file in _MODEL_FILES)


@contextlib.contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """Wait until no other process builds this folder.

    The kernel lets go of the lock when its process dies, so it cannot go stale.
    """
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_in_place(folder: Path) -> None:
    """Build beside `folder` and rename; only for the one who holds the lock."""
    unfinished = f"{folder.name}.unfinished-"
    for leftover in folder.parent.glob(f"{unfinished}*"):
        shutil.rmtree(leftover)
    if folder.exists():
        shutil.rmtree(folder)
    _log.info("building the untrained Inception-ResNet-v2, once, in %s", folder.parent)
    building = Path(tempfile.mkdtemp(prefix=unfinished, dir=folder.parent))
    try:
        _save_model(building)
        building.chmod(0o755)  # mkdtemp keeps others out, who may share the cache.
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _save_model(folder: Path) -> None:
    import tensorflow as tf

    network = seeded_network()
    load_statistics(network)
    try:
        # An empty dict, because None lets TensorFlow look for a signature of its own.
        tf.saved_model.save(reusable_module(network), str(folder), signatures={})
    except tf.errors.OpError as error:
        # A full disk, for one: TensorFlow's file errors are not OSErrors.
        raise OSError(error.message) from error
    description = {
        "handle": UNTRAINED_HANDLE,
        "untrained": True,
        "input_height": INPUT_SIZE,
        "input_width": INPUT_SIZE,
        "embedding_width": EMBEDDING_WIDTH,
        "seed": SEED,
        "note": _NOTE,
    }
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")


def seeded_network() -> Any:
    """Build the Keras network with seeded weights and batch-norm statistics 0 and 1.

    Every variable has the same bytes in every process. Layers are named
    by their position in the network: Keras' own names count all layers of the process.

    Returns:
        A `keras.Model` from float32 `[n, height, width, 3]` in [-1, 1], sides of 75 or more,
        to float32 `[n, 1536]`, with 54,336,736 parameters
        (https://arxiv.org/abs/1602.07261).

    Raises:
        UnusableModel: Keras is set up in a way that would give another network.
    """
    import keras

    _check_keras(keras)
    counted = keras.applications.InceptionResNetV2(
        include_top=False, weights=None, pooling="avg", input_shape=(None, None, 3)
    )
    positions = {layer.name: position for position, layer in enumerate(counted.layers)}

    def renamed(layer: Any) -> Any:
        kind = type(layer).__name__.lower()
        name = f"{kind}_{positions[layer.name]:03d}"
        return type(layer).from_config({**layer.get_config(), "name": name})

    network = keras.models.clone_model(counted, clone_function=renamed)

    random = np.random.RandomState(SEED)
    for layer in network.layers:
        for variable in layer.trainable_variables:
            variable.assign(_seeded_values(random, variable.name, tuple(variable.shape)))
    return network


def _check_keras(keras: Any) -> None:
    for setting, value, needed in (
        ("backend", keras.config.backend(), "tensorflow"),
        ("image_data_format", keras.config.image_data_format(), "channels_last"),
        ("floatx", keras.config.floatx(), "float32"),
        ("dtype_policy", keras.config.dtype_policy().name, "float32"),
    ):
        if value != needed:
            raise UnusableModel(
                f"Keras is set to {setting} {value!r}, and the untrained model needs "
                f"{needed!r}; look at ~/.keras/keras.json and at KERAS_BACKEND"
            )


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


def batch_norm_layers(network: Any) -> list[Any]:
    """Return the batch-normalisation layers of the network, by position."""
    import keras

    return [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]


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


def reusable_module(network: Any) -> Any:
    """Wrap the network in the interface of TF Hub's `feature_vector/4`.

    `__call__(inputs, training=False, batch_norm_momentum=0.99)` takes float32 RGB
    `[n, height, width, 3]` in [0, 1] and gives float32 `[n, 1536]`. It is traced four ways:
    training or not, momentum left alone or given as a scalar tensor. Beside it stand
    `variables`, `trainable_variables` and `regularization_losses`
    (https://www.tensorflow.org/hub/reusable_saved_models). The variables stand in lists, so
    that their checkpoint keys are positions.
    """
    import tensorflow as tf

    batch_norms = batch_norm_layers(network)

    @tf.function
    def call(inputs: Any, training: bool = False, batch_norm_momentum: Any = 0.99) -> Any:
        usual = [layer.momentum for layer in batch_norms]
        for layer in batch_norms:
            layer.momentum = batch_norm_momentum
        try:
            return network(inputs * 2.0 - 1.0, training=training)
        finally:
            for layer, momentum in zip(batch_norms, usual, strict=True):
                layer.momentum = momentum

    images = tf.TensorSpec([None, None, None, 3], tf.float32, name="inputs")
    for training in (False, True):
        for momentum in (0.99, tf.TensorSpec([], tf.float32, name="batch_norm_momentum")):
            call.get_concrete_function(images, training=training, batch_norm_momentum=momentum)

    module = tf.train.Checkpoint()
    module.__call__ = call
    module.variables = [variable.value for variable in network.variables]
    module.trainable_variables = [variable.value for variable in network.trainable_variables]
    module.regularization_losses = []
    return module
