"""The models behind `keras:inception_resnet_v2?weights=FILE`: converted once, then kept."""

import contextlib
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transforms.errors import UnusableModel
from transforms.models.built_model_cache import builder_versions, built_model_folder
from transforms.models.keras_handle import IMAGENET, parse_keras_handle
from transforms.models.keras_networks import inception_resnet_v2
from transforms.models.keras_weights import load_keras_weights
from transforms.models.reusable_module import save_reusable_module
from transforms.storage.file_listing import is_remote, local_path

#: Raised whenever the same file would become another model than before.
RECIPE_VERSION = 1


@dataclass(frozen=True, slots=True)
class KerasRecipe:
    """How one network of keras.applications is built."""

    build: Callable[[], Any]
    """Gives a `keras.Model` from `[n, height, width, 3]` in [-1, 1] to vectors `[n, width]`."""
    input_size: tuple[int, int]
    """Height and width it was trained with."""
    imagenet_url: str
    """Where Keras keeps its weights, with the dense layer."""
    imagenet_md5: str


#: The address and the MD5 are those of keras/src/applications/inception_resnet_v2.py.
KERAS_RECIPES = {
    "inception_resnet_v2": KerasRecipe(
        build=inception_resnet_v2,
        input_size=(299, 299),
        imagenet_url="https://storage.googleapis.com/tensorflow/keras-applications/"
        "inception_resnet_v2/inception_resnet_v2_weights_tf_dim_ordering_tf_kernels.h5",
        imagenet_md5="e693bd0210a403b3192acc6073ad2e96",
    )
}


def keras_model_folder(handle: str, cache: str | None = None) -> str:
    """Return the folder of a Keras network as a SavedModel, converting it on the first call.

    It has the interface of TF Hub's `feature_vector/4` (see `transforms.models.reusable_module`):
    it takes float32 in [0, 1], and puts it into the network's [-1, 1] itself. Where the weights
    include the top, a signature `serving_default` gives `embedding`, the average pool, and
    `logits`, before softmax: one for each class, and none for a background. The conversion takes
    tens of seconds; the folder is found again by the SHA-256 of the weights.

    Args:
        handle: `keras:inception_resnet_v2?weights=FILE`, with a local file as
            `transforms.models.keras_weights` reads it, or `imagenet`, which Keras downloads once to
            KERAS_HOME.
        cache: see `transforms.models.built_model_cache`.

    Raises:
        UnusableModel: there is no such network, the weights are not those of the network or
            cannot be had, or the cache cannot be written.

    Example:
        >>> keras_model_folder("keras:inception_resnet_v2?weights=mine.h5")  # doctest: +SKIP
    """
    parsed = parse_keras_handle(handle)
    recipe = KERAS_RECIPES.get(parsed.network)
    if recipe is None:
        known = " or ".join(KERAS_RECIPES)
        raise UnusableModel(f"there is no network {parsed.network!r} for {handle}; use {known}")
    if parsed.weights is None:
        raise UnusableModel(
            f"the model {handle} has no weights; name a .h5, .weights.h5 or .keras file with "
            f"model.weights, or {IMAGENET}"
        )
    weights = parsed.weights
    path = _imagenet_file(recipe) if weights == IMAGENET else _local_file(weights)
    sha256 = _sha256(path)

    def save(folder: Path) -> None:
        loaded = load_keras_weights(recipe.build(), path, parsed.network)
        height, width = loaded.input_size or recipe.input_size
        facts = {
            "handle": f"keras:{parsed.network}",
            "kind": "feature_vector",
            "input_height": height,
            "input_width": width,
            "embedding_width": loaded.network.output_shape[-1],
            "classes": loaded.classes,
            "weights_sha256": sha256,
        }
        save_reusable_module(loaded.network, folder, facts, loaded.classifier)

    name = f"keras-{parsed.network}-{sha256}-recipe{RECIPE_VERSION}-{builder_versions()}"
    return built_model_folder(name, save, f"the model {handle}", cache)


def _imagenet_file(recipe: KerasRecipe) -> str:
    import keras

    try:
        # Keras tells of the download on standard output, which is for results.
        with contextlib.redirect_stdout(sys.stderr):
            return str(
                keras.utils.get_file(
                    origin=recipe.imagenet_url, cache_subdir="models", file_hash=recipe.imagenet_md5
                )
            )
    except Exception as error:  # Keras raises a bare Exception where the download fails.
        raise UnusableModel(
            f"the ImageNet weights cannot be fetched from {recipe.imagenet_url}: {error}; download "
            "that file elsewhere, and name it with model.weights"
        ) from error


def _local_file(weights: str) -> str:
    if is_remote(weights):
        raise UnusableModel(
            f"the weights {weights} are not on this machine; copy them to a local file, or give "
            "workers elsewhere a SavedModel on gs://"
        )
    return local_path(weights)


def _sha256(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise UnusableModel(
            f"the weights {path}: there is no such file; give a .h5, .weights.h5 or .keras file"
        ) from error
    except OSError as error:
        raise UnusableModel(f"the weights {path} cannot be read: {error.strerror}") from error
