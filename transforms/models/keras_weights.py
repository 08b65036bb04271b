"""The weights in a Keras file, put into a network that is built here.

Nothing of the file is run. Of a .keras file only the arrays and the names of the layer classes
are read; its configuration is never made into objects, which is what Keras' `safe_mode` guards
(https://keras.io/guides/serialization_and_saving/).
"""

import json
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transforms.errors import UnusableModel

#: In a .keras file.
_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"

#: More than any image network with the state of its optimizer.
_LARGEST_WEIGHTS = 8 * 2**30
_LARGEST_CONFIG = 64 * 2**20

#: Where Keras 3 keeps the layers; beside them stand an optimizer and metrics.
_KERAS_3_LAYERS = ("layers", "_layer_checkpoint_dependencies")

#: These change nothing outside of training.
_IDLE_LAYERS = ("InputLayer", "Dropout")

#: Older versions scaled the residuals of Inception-ResNet-v2 with a Lambda layer.
_SAME_LAYER = {"Lambda": "CustomScaleLayer"}

_ADVICE = "save that network alone, with or without its dense layer of classes"


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A network with the weights of a file."""

    network: Any
    """A `keras.Model` from images to vectors."""
    classifier: Any
    """A `keras.Layer` from the vectors to logits, without softmax; None where there is none."""
    classes: int | None
    """The width of the logits."""
    input_size: tuple[int, int] | None
    """Height and width that the saved model takes, where the file names them."""


def load_keras_weights(network: Any, path: str, name: str) -> LoadedNetwork:
    """Put the weights of a Keras file into the network.

    The file is a .keras file, a whole model or its weights in the older .h5 format, or a
    .weights.h5 file of Keras 3; its content tells which, not its name. If it holds one dense
    layer behind the network's vectors, this becomes the classifier.

    Args:
        network: a built `keras.Model` from images to vectors `[n, width]`; it is changed.
        path: of the file.
        name: of the network, for messages.

    Raises:
        UnusableModel: the file cannot be read, or holds the weights of another network.

    Example:
        >>> load_keras_weights(inception_resnet_v2(), "mine.keras", "mine")  # doctest: +SKIP
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _load(network, Path(path), name, Path(folder))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise UnusableModel(
            f"the weights {path} cannot be read: {type(error).__name__}: {_one_line(error)}; save "
            "or copy the file again"
        ) from error


def _load(network: Any, file: Path, name: str, folder: Path) -> LoadedNetwork:
    import h5py
    import keras

    config = None
    weights = file
    if zipfile.is_zipfile(file):
        weights = folder / _WEIGHTS
        config = _unzip(file, weights)
    if not h5py.is_hdf5(weights):
        raise UnusableModel(
            f"the weights {file} are neither an HDF5 file nor a Keras archive, or the file is cut: "
            f"it begins with {file.open('rb').read(8)!r}; give a .h5, .weights.h5 or .keras file"
        )
    with h5py.File(weights, "r") as content:
        older = "layer_names" in content.attrs or "model_weights" in content
        if older and "model_config" in content.attrs:
            config = json.loads(content.attrs["model_config"])
        shapes = _shapes(content, older)
    classes = _classes(network, shapes, file, name)
    classifier = model = None
    if classes is not None:
        classifier = keras.layers.Dense(classes, name="predictions")
        model = keras.Model(network.input, classifier(network.output))
    _check_layers(model or network, config, file, name)
    # Keras goes by the name of a file.
    named = folder / ("older.h5" if older else _WEIGHTS)
    if not named.exists():
        named.symlink_to(weights.absolute())
    (model or network).load_weights(named)
    return LoadedNetwork(network, classifier, classes, _input_size(config))


def _unzip(file: Path, weights: Path) -> Any:
    """Put the weights of a .keras file into a file of their own; return the configuration."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if _CONFIG not in names or _WEIGHTS not in names:
                raise UnusableModel(
                    f"the weights {file} are a zip archive without {_CONFIG} and {_WEIGHTS}, so no "
                    ".keras file"
                )
            for part, largest in ((_CONFIG, _LARGEST_CONFIG), (_WEIGHTS, _LARGEST_WEIGHTS)):
                size = archive.getinfo(part).file_size
                if size > largest:
                    raise UnusableModel(
                        f"the weights {file}: {part} has {size:,} bytes, more than the "
                        f"{largest:,} allowed"
                    )
            with archive.open(_WEIGHTS) as source, weights.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
            return json.loads(archive.read(_CONFIG))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UnusableModel(
            f"the weights {file} are cut or corrupt: {error}; copy the file again"
        ) from error


def _shapes(content: Any, older: bool) -> "Counter[tuple[int, ...]]":
    """Count the arrays of floats of the layers, by shape."""
    import h5py

    groups = [content[name] for name in _KERAS_3_LAYERS if name in content]
    if older:
        groups = [content.get("model_weights", content)]
    shapes: Counter[tuple[int, ...]] = Counter()

    def count(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            shapes[item.shape] += 1

    for group in groups:
        group.visititems(count)
    return shapes


def _classes(network: Any, shapes: "Counter[tuple[int, ...]]", file: Path, name: str) -> int | None:
    """Return the number of classes of the dense layer behind the network; None without one.

    Keras ignores arrays that the network has no place for, so that they are counted here.
    """
    own = Counter(tuple(variable.shape) for variable in network.weights)
    extra, missing = shapes - own, own - shapes
    width = network.output_shape[-1]
    classes = next((shape[1] for shape in extra if len(shape) == 2 and shape[0] == width), None)
    if not missing and extra == Counter([(width, classes), (classes,)] if classes else []):
        return classes
    raise UnusableModel(
        f"the weights {file} are not those of {name}: of the {own.total()} arrays of its weights "
        f"the file lacks {_some(missing)}, and it holds {_some(extra)} besides; {_ADVICE}"
    )


def _some(shapes: "Counter[tuple[int, ...]]") -> str:
    if not shapes:
        return "none"
    return f"{shapes.total()} (such as {list(min(shapes))})"


def _check_layers(model: Any, config: Any, file: Path, name: str) -> None:
    """Check that a saved model has no other layers; they may have no weights to tell them by."""
    if config is None:
        return
    own = _counted(type(layer).__name__ for layer in model.layers)
    found = _counted(layer["class_name"] for layer in config["config"]["layers"])
    if not found["GlobalAveragePooling2D"] and not found["Dense"]:
        del own["GlobalAveragePooling2D"]  # Saved without pooling, as include_top=False does.
    if found != own:
        differing = sorted(set(found - own) | set(own - found))
        numbers = ", ".join(f"{found[i]} {i} (not {own[i]})" for i in differing[:4])
        raise UnusableModel(
            f"the weights {file} are of a model with other layers than {name}: {numbers}; {_ADVICE}"
        )


def _counted(classes: Any) -> "Counter[str]":
    names = Counter(_SAME_LAYER.get(name, name) for name in classes)
    for idle in _IDLE_LAYERS:
        del names[idle]
    return names


def _input_size(config: Any) -> tuple[int, int] | None:
    if config is None:
        return None
    for layer in config["config"]["layers"]:
        settings = layer["config"]
        shape = settings.get("batch_shape") or settings.get("batch_input_shape")
        if layer["class_name"] == "InputLayer" and shape:
            _, height, width, _ = shape
            return (height, width) if height and width else None
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
