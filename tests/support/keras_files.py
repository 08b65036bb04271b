"""A small Keras network, and the files in which Keras keeps its weights."""

from pathlib import Path
from typing import Any

WIDTH = 6
CLASSES = 4


def small_network() -> Any:
    """Return an untrained network without a top, from [-1, 1] to `[n, WIDTH]`."""
    import keras

    images = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(WIDTH, 3, use_bias=False)(images)
    maps = keras.layers.BatchNormalization(scale=False)(maps)
    maps = keras.layers.Activation("relu")(maps)
    vectors = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(images, vectors)


def seeded(network: Any, seed: int = 0) -> Any:
    """Give every weight of the network a value of its own; return the network."""
    import numpy as np

    random = np.random.RandomState(seed)
    for variable in network.weights:
        variable.assign(random.uniform(0.1, 1.0, variable.shape))
    return network


def with_top(network: Any, activation: str = "softmax") -> Any:
    """Return the network with a dense layer of CLASSES behind it, with seeded weights."""
    import keras

    top = keras.layers.Dense(CLASSES, activation=activation, name="predictions")
    model = keras.Model(network.input, top(network.output))
    weights = seeded(keras.Sequential([keras.Input((network.output_shape[-1],)), top]), seed=1)
    assert weights.weights
    return model


def save(model: Any, folder: Path, name: str) -> str:
    """Save the model as its name says: .weights.h5, .h5 (older, whole), .keras."""
    path = folder / name
    if name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return str(path)


def save_older_weights(model: Any, path: Path) -> str:
    """Save weights alone in the .h5 format of Keras 2, as those of ImageNet are published."""
    import h5py

    with h5py.File(path, "w") as file:
        names = [layer.name for layer in model.layers]
        file.attrs["layer_names"] = [name.encode() for name in names]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.0.0"
        for layer in model.layers:
            group = file.create_group(layer.name)
            paths = [f"{layer.name}/{variable.name}:0" for variable in layer.weights]
            group.attrs["weight_names"] = [each.encode() for each in paths]
            for each, variable in zip(paths, layer.weights, strict=True):
                group[each] = variable.numpy()
    return str(path)
