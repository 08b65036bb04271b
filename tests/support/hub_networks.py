"""The networks that `hub_modules` publishes: a tiny one, and any that Keras has."""

from typing import Any, Protocol

import numpy as np

#: ImageNet's 1000 classes behind class 0, the background.
CLASSES = 1001


class Network(Protocol):
    """What is published: called on images it gives its tensors by name."""

    variables: list[Any]
    """Every `tf.Variable` it reads, under a name of its own."""

    def __call__(self, images: Any, training: bool, batch_norm_momentum: Any) -> dict[str, Any]:
        """Return `feature_vector` `[n, width]`, `logits` `[n, classes]` and any endpoints.

        Args:
            images: float32 `[n, height, width, 3]` in [0, 1].
            training: normalise by the batch, and update the moving statistics.
            batch_norm_momentum: of these.
        """


class TinyNetwork:
    """A convolution, batch normalisation, pooling and a dense layer: ten thousand weights."""

    def __init__(self, seed: int = 0, embedding_width: int = 8, classes: int = CLASSES) -> None:
        import tensorflow as tf

        random = np.random.RandomState(seed)

        def weights(name: str, *shape: int) -> Any:
            return tf.Variable(random.standard_normal(shape).astype(np.float32), name=name)

        self.kernel = weights("TinyNet/Conv2d_1a_3x3/weights", 3, 3, 3, embedding_width)
        self.moving_mean = tf.Variable(
            tf.fill([embedding_width], 0.1), False, name="TinyNet/BatchNorm/moving_mean"
        )
        self.moving_variance = tf.Variable(
            tf.fill([embedding_width], 0.5), False, name="TinyNet/BatchNorm/moving_variance"
        )
        self.mixing = weights("TinyNet/Mixing/weights", 2 * embedding_width, embedding_width)
        self.dense = weights("TinyNet/Logits/weights", embedding_width, classes)
        self.biases = weights("TinyNet/Logits/biases", classes)
        self.variables = [
            *(self.kernel, self.moving_mean, self.moving_variance),
            *(self.mixing, self.dense, self.biases),
        ]

    def __call__(self, images: Any, training: bool, batch_norm_momentum: Any) -> dict[str, Any]:
        """See `Network`."""
        import tensorflow as tf

        maps = tf.nn.conv2d(images * 2.0 - 1.0, self.kernel, strides=2, padding="VALID")
        mean, variance = self.moving_mean, self.moving_variance
        if training:
            mean, variance = tf.nn.moments(maps, axes=[0, 1, 2])
            for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
                kept = batch_norm_momentum * moving
                moving.assign(kept + (1 - batch_norm_momentum) * new)
        maps = tf.nn.relu((maps - mean) / tf.sqrt(variance + 1e-3))
        down = tf.linspace(-1.0, 1.0, tf.shape(maps)[1])[None, :, None, None]
        pooled = tf.reduce_mean(maps, [1, 2], keepdims=True, name="TinyNet/global_pool")
        both = tf.concat([pooled, tf.reduce_mean(maps * down, [1, 2], keepdims=True)], axis=3)
        mixed = tf.linalg.matmul(tf.squeeze(both, [1, 2]), self.mixing)
        vector = tf.identity(mixed, name="TinyNet/SpatialSqueeze")
        logits = tf.add(tf.linalg.matmul(vector, self.dense), self.biases, "TinyNet/Logits/add")
        return {
            "feature_vector": vector,
            "logits": logits,
            "TinyNet/Conv2d_1a_3x3": maps,
            "TinyNet/global_pool": pooled,
        }


class KerasNetwork:
    """A Keras network from [-1, 1] to vectors, with seeded logits behind it."""

    def __init__(self, network: Any, *, classes: int = CLASSES, seed: int = 0) -> None:
        """Take the network over; its weights stay where they are.

        Args:
            network: a `keras.Model` from float32 `[n, height, width, 3]` in [-1, 1] to
                `[n, width]`, such as `transforms.models.untrained_model.seeded_network()`.
            classes: width of the logits.
            seed: of the weights of the logits.
        """
        import keras
        import tensorflow as tf

        self.network = network
        random = np.random.RandomState(seed)
        shape = (network.output_shape[-1], classes)
        self.dense = tf.Variable(random.standard_normal(shape).astype(np.float32), name="logits")
        self.batch_norms = [
            layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)
        ]
        self.variables = [*(variable.value for variable in network.variables), self.dense]

    def __call__(self, images: Any, training: bool, batch_norm_momentum: Any) -> dict[str, Any]:
        """See `Network`."""
        import tensorflow as tf

        usual = [layer.momentum for layer in self.batch_norms]
        for layer in self.batch_norms:
            layer.momentum = batch_norm_momentum
        try:
            vector = self.network(images * 2.0 - 1.0, training=training)
        finally:
            for layer, momentum in zip(self.batch_norms, usual, strict=True):
                layer.momentum = momentum
        vector = tf.identity(vector, name="SpatialSqueeze")
        return {"feature_vector": vector, "logits": tf.linalg.matmul(vector, self.dense)}
