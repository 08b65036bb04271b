"""The networks of keras.applications, as bare networks without weights."""

from typing import Any

from transforms.errors import UnusableModel


def inception_resnet_v2() -> Any:
    """Build Inception-ResNet-v2 up to the average pooling, with Keras' own random weights.

    Layers are named by their position in the network: Keras' own names count all layers of the
    process.

    Returns:
        A `keras.Model` from float32 `[n, height, width, 3]` in [-1, 1], sides of 75 or more,
        to float32 `[n, 1536]`, with 54,336,736 parameters
        (https://arxiv.org/abs/1602.07261).

    Raises:
        UnusableModel: Keras is set up in a way that would give another network.

    Example:
        >>> inception_resnet_v2().output_shape  # doctest: +SKIP
        (None, 1536)
    """
    import keras

    check_keras()
    counted = keras.applications.InceptionResNetV2(
        include_top=False, weights=None, pooling="avg", input_shape=(None, None, 3)
    )
    positions = {layer.name: position for position, layer in enumerate(counted.layers)}

    def renamed(layer: Any) -> Any:
        kind = type(layer).__name__.lower()
        name = f"{kind}_{positions[layer.name]:03d}"
        return type(layer).from_config({**layer.get_config(), "name": name})

    return keras.models.clone_model(counted, clone_function=renamed)


def check_keras() -> None:
    """Check that Keras builds the networks that TF Hub has.

    Raises:
        UnusableModel: it is set up for another backend, layout or number format.

    Example:
        >>> check_keras()  # doctest: +SKIP
    """
    import keras

    for setting, value, needed in (
        ("backend", keras.config.backend(), "tensorflow"),
        ("image_data_format", keras.config.image_data_format(), "channels_last"),
        ("floatx", keras.config.floatx(), "float32"),
        ("dtype_policy", keras.config.dtype_policy().name, "float32"),
    ):
        if value != needed:
            raise UnusableModel(
                f"Keras is set to {setting} {value!r}, and this model needs {needed!r}; look at "
                "~/.keras/keras.json and at KERAS_BACKEND"
            )
