"""Small SavedModels of what is hard to rewrite: constants in parts, odd types, groups, branches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

#: Of the images, in pixels.
SIDE = 32

Variable = Callable[..., Any]
"""Makes one, of a shape and with a standard deviation (default: such that results stay near 1)."""

Network = Callable[[Variable], Callable[[Any], Any]]
"""Takes `Variable`, and returns what turns `float32 [n, SIDE, SIDE, 3]` into vectors."""


def save_network(folder: str | Path, network: Network) -> str:
    """Save a network to `folder`, and return the folder as a string."""
    import tensorflow as tf

    random = np.random.RandomState(0)
    model = tf.train.Checkpoint()
    model.variables = []

    def variable(*shape: int, deviation: float | None = None, dtype: Any = np.float32) -> Any:
        deviation = deviation or 1 / np.sqrt(np.prod(shape[:-1]) or 1)
        values = random.standard_normal(shape) * deviation
        if np.issubdtype(dtype, np.complexfloating):
            values = values + 1j * random.standard_normal(shape) * deviation
        model.variables.append(tf.Variable(values.astype(dtype)))
        return model.variables[-1]

    model.__call__ = tf.function(
        network(variable),
        input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32)],
        autograph=False,
    )
    tf.saved_model.save(model, str(folder), signatures={})
    return str(folder)


def _mean(maps: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_mean(maps, [1, 2])


def _convolve(maps: Any, kernel: Any, bias: Any, strides: int = 1) -> Any:
    import tensorflow as tf

    return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(maps, kernel, strides, "SAME"), bias))


def unstacked_scale(variable: Variable) -> Callable[[Any], Any]:
    """Scale and shift are the two results of one operation."""
    import tensorflow as tf

    kernel, parameters = variable(3, 3, 3, 8), variable(2, 8, deviation=1)

    def call(images: Any) -> Any:
        scale, shift = tf.unstack(parameters)
        return _mean(tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME") * scale + shift))

    return call


def split_kernel(variable: Variable) -> Callable[[Any], Any]:
    """Two convolutions share one variable, half each."""
    import tensorflow as tf

    kernel, biases = variable(3, 3, 3, 16), variable(2, 8, deviation=1)

    def call(images: Any) -> Any:
        first, second = tf.split(kernel, 2, axis=3)
        one, other = _convolve(images, first, biases[0]), _convolve(images, second, biases[1])
        return tf.concat([_mean(one), _mean(other)], 1)

    return call


def attention(variable: Variable) -> Callable[[Any], Any]:
    """Queries, keys and values come from one variable, and so do their biases."""
    import tensorflow as tf

    patches, weights, biases = variable(8, 8, 3, 64), variable(64, 192), variable(192, deviation=1)

    def call(images: Any) -> Any:
        tokens = tf.reshape(tf.nn.conv2d(images, patches, 8, "VALID"), [-1, 64])
        parts = zip(tf.split(weights, 3, axis=1), tf.split(biases, 3), strict=True)
        query, key, value = (
            tf.reshape(tf.linalg.matmul(tokens, weight) + bias, [-1, 16, 64])
            for weight, bias in parts
        )
        return tf.reduce_mean(
            tf.nn.softmax(tf.linalg.matmul(query, key, transpose_b=True) / 8) @ value, 1
        )

    return call


def singular_vectors(variable: Variable) -> Callable[[Any], Any]:
    """Weights are the second result of an operation that has three."""
    import tensorflow as tf

    kernel, square, bias = variable(3, 3, 3, 8), variable(8, 8), variable(8, deviation=1)

    def call(images: Any) -> Any:
        _, left, _ = tf.linalg.svd(square)
        maps = tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME"))
        return tf.linalg.matmul(_mean(maps), left) + bias

    return call


def complex_product(variable: Variable) -> Callable[[Any], Any]:
    import tensorflow as tf

    weights, scale = variable(48, 8, dtype=np.complex64), variable(8, dtype=np.complex64)

    def call(images: Any) -> Any:
        pooled = tf.reshape(tf.nn.avg_pool2d(images, 8, 8, "VALID"), [-1, 48])
        return tf.abs(tf.linalg.matmul(tf.cast(pooled, tf.complex64), weights) * scale)

    return call


def half_precision(variable: Variable) -> Callable[[Any], Any]:
    """Its weights times its scale are beyond float16, and what it computes is not."""
    import tensorflow as tf

    kernel = variable(3, 3, 3, 8, deviation=10, dtype=np.float16)

    def call(images: Any) -> Any:
        images = tf.cast(images, tf.float16) * tf.constant(1e-3, tf.float16)
        maps = tf.nn.conv2d(images, kernel, 1, "SAME") * tf.constant(3e4, tf.float16)
        return _mean(tf.cast(tf.nn.relu(maps), tf.float32))

    return call


def weights_beside_the_sum(variable: Variable) -> Callable[[Any], Any]:
    """What follows a convolution has the name of another one's weights, less the last part."""
    import tensorflow as tf

    kernel, bias, other = variable(3, 3, 3, 8), variable(8, deviation=1), variable(3, 3, 3, 8)

    def call(images: Any) -> Any:
        maps = tf.nn.conv2d(images, kernel, 1, "SAME")
        first = tf.raw_ops.AddV2(x=maps, y=bias, name="layer")
        weights = tf.raw_ops.Mul(x=other, y=3.0, name="layer/weights")
        second = tf.nn.conv2d(images, weights, 1, "SAME")
        return tf.concat([_mean(tf.nn.relu(first)), _mean(second)], 1)

    return call


def grouped(variable: Variable) -> Callable[[Any], Any]:
    """A grouped convolution, with a batch norm in plain arithmetic behind it."""
    import tensorflow as tf

    first, second, last = variable(3, 3, 3, 64), variable(3, 3, 16, 64), variable(64, 8)
    mean, variance = variable(64, deviation=0.1), tf.constant(0.7, shape=[64])

    def normalize(maps: Any) -> Any:
        return tf.nn.relu((maps - mean) * tf.math.rsqrt(variance + 1e-3) * variance + mean)

    def call(images: Any) -> Any:
        maps = normalize(tf.nn.conv2d(images, first, 2, "SAME"))
        return tf.linalg.matmul(_mean(normalize(tf.nn.conv2d(maps, second, 1, "SAME"))), last)

    return call


def grouped_with_bias(variable: Variable) -> Callable[[Any], Any]:
    """Each of four groups sees 32 channels of 128."""
    import tensorflow as tf

    first, second, last = variable(3, 3, 3, 128), variable(3, 3, 32, 128), variable(128, 8)
    biases = variable(2, 128, deviation=0.1)

    def call(images: Any) -> Any:
        maps = _convolve(_convolve(images, first, biases[0], 2), second, biases[1])
        return tf.linalg.matmul(_mean(maps), last)

    return call


def channels_first(variable: Variable) -> Callable[[Any], Any]:
    import tensorflow as tf

    first, second, last = variable(3, 3, 3, 64), variable(3, 3, 64, 64), variable(64, 8)
    biases = variable(2, 64, deviation=0.2)

    def convolve(maps: Any, kernel: Any, bias: Any, strides: int) -> Any:
        maps = tf.nn.conv2d(maps, kernel, strides, "SAME", data_format="NCHW")
        return tf.nn.relu(tf.nn.bias_add(maps, bias, data_format="NCHW"))

    def call(images: Any) -> Any:
        maps = convolve(tf.transpose(images, [0, 3, 1, 2]), first, biases[0], 2)
        maps = convolve(maps, second, biases[1], 1)
        return tf.linalg.matmul(tf.reduce_mean(maps, [2, 3]), last)

    return call


def large_depthwise(variable: Variable) -> Callable[[Any], Any]:
    """A depthwise convolution that sums up 144 numbers, with two results a channel."""
    import tensorflow as tf

    first, depthwise, last = variable(3, 3, 3, 16), variable(12, 12, 16, 2), variable(32, 8)
    biases = variable(16, deviation=0.1), variable(32, deviation=0.1)

    def call(images: Any) -> Any:
        maps = _convolve(images, first, biases[0], 2)
        maps = tf.nn.depthwise_conv2d(maps, depthwise, [1, 1, 1, 1], "SAME")
        return tf.linalg.matmul(_mean(tf.nn.relu(tf.nn.bias_add(maps, biases[1]))), last)

    return call


def two_splits(variable: Variable) -> Callable[[Any], Any]:
    """`split:1` and the first result of `split_1` are two tensors, one behind the other."""
    return _split_maps(variable, side_by_side=False)


def two_splits_side_by_side(variable: Variable) -> Callable[[Any], Any]:
    """`split:1` and the first result of `split_1` are two tensors, of two branches."""
    return _split_maps(variable, side_by_side=True)


def _split_maps(variable: Variable, *, side_by_side: bool) -> Callable[[Any], Any]:
    import tensorflow as tf

    first, bias = [variable(3, 3, 3, 64) for _ in range(2)], variable(64, deviation=0.1)
    kernels = [variable(3, 3, 32, 32) for _ in range(4)]
    biases = [variable(32, deviation=0.1) for _ in range(4)]
    last = variable(128 if side_by_side else 64, 8)

    def halves(maps: Any, number: int) -> Any:
        parts = enumerate(tf.split(maps, 2, axis=3), 2 * number)
        return tf.concat([_convolve(part, kernels[i], biases[i]) for i, part in parts], 3)

    def call(images: Any) -> Any:
        maps = [_convolve(images, kernel, bias, 2) for kernel in first]
        if side_by_side:
            parts = [part for each in maps for part in tf.split(each, 2, axis=3)]
            both = [_convolve(part, kernels[i], biases[i]) for i, part in enumerate(parts)]
            return tf.linalg.matmul(_mean(tf.concat(both, 3)), last)
        return tf.linalg.matmul(_mean(halves(halves(maps[0], 0), 1)), last)

    return call


def long_string(variable: Variable) -> Callable[[Any], Any]:
    """It depends on a string that is too long to be written into the graph."""
    import tensorflow as tf

    kernel, text = variable(3, 3, 3, 8), tf.constant("x" * 300 + "\0")

    def call(images: Any) -> Any:
        length = tf.cast(tf.strings.length(text), tf.float32)
        return _mean(tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME") * length))

    return call


def noise(variable: Variable) -> Callable[[Any], Any]:
    """Its vectors are another each time."""
    import tensorflow as tf

    kernels = variable(3, 3, 3, 32), variable(3, 3, 32, 32), variable(32, 8)

    def call(images: Any) -> Any:
        maps = tf.nn.conv2d(tf.nn.conv2d(images, kernels[0], 2, "SAME"), kernels[1], 2, "SAME")
        maps = maps * tf.random.uniform(tf.shape(maps))
        return tf.linalg.matmul(_mean(tf.nn.relu(maps)), kernels[2])

    return call


def beyond_float16(variable: Variable) -> Callable[[Any], Any]:
    """Its numbers reach some millions."""
    import tensorflow as tf

    first, second, last = variable(3, 3, 3, 32), variable(3, 3, 32, 32), variable(32, 8)

    def call(images: Any) -> Any:
        maps = tf.nn.relu(tf.nn.conv2d(images, first, 2, "SAME")) * 1e6
        maps = tf.nn.relu(tf.nn.conv2d(maps, second, 1, "SAME"))
        return tf.linalg.matmul(_mean(maps), last)

    return call


def zero_for_bright_images(variable: Variable) -> Callable[[Any], Any]:
    import tensorflow as tf

    first, second, last = variable(3, 3, 3, 32), variable(3, 3, 32, 32), variable(32, 8)

    def call(images: Any) -> Any:
        maps = tf.nn.relu(tf.nn.conv2d(images, first, 2, "SAME"))
        maps = tf.nn.relu(tf.nn.conv2d(maps, second, 1, "SAME"))
        vectors = tf.linalg.matmul(_mean(maps), last)
        bright = tf.reduce_mean(images, [1, 2, 3])[:, None] > 0.5
        return tf.where(bright, tf.zeros_like(vectors), vectors)

    return call


def not_a_number(variable: Variable) -> Callable[[Any], Any]:
    import tensorflow as tf

    first, second, last = variable(3, 3, 3, 32), variable(3, 3, 32, 32), variable(32, 8)

    def call(images: Any) -> Any:
        maps = tf.nn.conv2d(tf.nn.conv2d(images, first, 2, "SAME"), second, 1, "SAME")
        return tf.linalg.matmul(_mean(maps), last) * tf.math.log(images[:, 0, 0, :1] - 2)

    return call


def save_branching_network(folder: str | Path) -> str:
    """Save a network with a branch of TensorFlow 1, taken for bright images, to `folder`."""
    import tensorflow as tf

    v1 = tf.compat.v1
    enabled = v1.control_flow_v2_enabled()
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            images = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3])
            values = np.random.RandomState(0).standard_normal((3, 3, 3, 8)).astype(np.float32)
            kernel = v1.get_variable("kernel", initializer=values, use_resource=True)
            maps = tf.nn.conv2d(images, kernel, 2, "SAME")
            scale = v1.cond(
                tf.reduce_mean(images) > 0.9,
                lambda: tf.fill([8], 1.0),
                lambda: tf.fill([8], -0.5),
            )
            vectors = _mean(tf.nn.relu(maps * scale))
            session.run(v1.global_variables_initializer())
            v1.saved_model.simple_save(session, str(folder), {"x": images}, {"y": vectors})
    finally:
        if enabled:
            v1.enable_control_flow_v2()
    return str(folder)
