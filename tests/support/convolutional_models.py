"""Small SavedModels of the building blocks of image networks, wide enough for 16-bit arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np

#: Of the vectors.
WIDTH = 24


def save_convolutional_model(
    folder: str | Path, *, seed: int = 0, refuses_red: bool = False, looks_up: bool = False
) -> str:
    """Save a network of 40,000 weights to `folder`, and return the folder as a string.

    It takes `[None, 32, 32, 3]`, RGB in [0, 1], and gives `[None, WIDTH]`. In it are batch norms of
    two kinds (one operation, and plain arithmetic), depthwise and pointwise convolutions, biases,
    a scaled residual, branches that are concatenated, and a matrix product at its end.

    Args:
        folder: where to.
        seed: of the weights.
        refuses_red: whether it refuses a batch with an image of pure red (255, 0, 0).
        looks_up: whether it takes a constant out of a table, which no constant can stand for.
    """
    import tensorflow as tf

    random = np.random.RandomState(seed)
    variables: list[Any] = []

    def variable(*shape: int) -> Any:
        fan_in = int(np.prod(shape[:-1])) or 1
        values = random.standard_normal(shape) * np.sqrt(2 / fan_in)
        variables.append(tf.Variable(values.astype(np.float32)))
        return variables[-1]

    def positive(channels: int) -> Any:
        variables.append(tf.Variable(random.uniform(0.5, 1.5, channels).astype(np.float32)))
        return variables[-1]

    first, second, third = variable(3, 3, 3, 16), variable(3, 3, 16, 32), variable(3, 3, 32, 32)
    depthwise, branch, dense = variable(3, 3, 16, 1), variable(1, 1, 32, 16), variable(192, WIDTH)
    fused = [positive(16), variable(16), variable(16), positive(16)]
    plain = [positive(32), variable(32), variable(32), positive(32)]
    bias = variable(32)
    initializer = tf.lookup.KeyValueTensorInitializer([1], [0.5])
    table = tf.lookup.StaticHashTable(initializer, 0.0) if looks_up else None

    def convolve(maps: Any, kernel: Any, strides: int = 1) -> Any:
        return tf.nn.conv2d(maps, kernel, strides, "SAME")

    def call(images: Any) -> Any:
        if refuses_red:
            reds = tf.reduce_max(tf.reduce_mean(tf.abs(images - (1.0, 0.0, 0.0)), [1, 2]), 1) < 0.05
            refused = tf.debugging.Assert(~tf.reduce_any(reds), ["pure red"])
            with tf.control_dependencies([refused]):
                images = tf.identity(images)
        if table is not None:
            images = images * 2.0 * table.lookup(tf.constant(1))
        maps = convolve(images * 2 - 1, first, 2)
        maps = tf.nn.relu(tf.compat.v1.nn.fused_batch_norm(maps, *fused, is_training=False)[0])
        maps = tf.nn.relu6(tf.nn.depthwise_conv2d(maps, depthwise, [1, 1, 1, 1], "SAME"))
        gamma, beta, mean, variance = plain
        maps = (convolve(maps, second) - mean) * (tf.math.rsqrt(variance + 1e-3) * gamma) + beta
        maps = tf.nn.relu(maps)
        maps = tf.nn.relu(maps + 0.17 * tf.nn.bias_add(convolve(maps, third), bias))
        maps = tf.concat([tf.nn.max_pool2d(maps, 2, 2, "SAME"), convolve(maps, branch, 2)], 3)
        maps = tf.concat([maps, tf.reverse(maps, [1])], 3)
        below, above = tf.split(tf.reduce_mean(maps, 2), 2, axis=1)
        features = tf.concat([tf.reduce_mean(below, 1), tf.reduce_mean(above, 1)], 1)
        return tf.nn.relu(tf.linalg.matmul(features, dense))

    model = tf.train.Checkpoint()
    model.__call__ = tf.function(
        call, input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32)], autograph=False
    )
    model.variables = variables
    model.table = table
    tf.saved_model.save(model, str(folder), signatures={})
    return str(folder)
