"""Tiny SavedModels with the interface of TF Hub's image feature vectors, some of them faulty.

Only the weights are stand-ins: what is saved is a real SavedModel, and every fault is a real
TensorFlow operation in its graph.
"""

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

Interface = Literal["call", "serving_default"]

#: The names in the signature of the "serving_default" interface, which a reader has to find out.
SIGNATURE_INPUT = "photographs"
SIGNATURE_OUTPUT = "features"

_CHANNELS = 8


def save_tiny_model(
    folder: str | Path,
    *,
    embedding_width: int = 8,
    image_height: int | None = 32,
    image_width: int | None = 32,
    interface: Interface = "call",
    seed: int = 0,
    scale: float = 1.0,
    fault: str | None = None,
    log: str | Path | None = None,
) -> str:
    """Save a model of a few hundred weights to `folder`, and return the folder as a string.

    It takes float32 RGB in [0, 1], `[None, image_height, image_width, 3]` (None: any size), and
    gives `[None, embedding_width]`. The vector depends on the colours, where they lie, and the
    texture, so that different images get clearly different vectors. With `training=True` it
    normalises by the batch, so that the wrong trace gives other vectors.

    Args:
        interface: "call" is that of feature_vector/4, `__call__` only and no signatures;
            "serving_default" is that of /5, which adds a signature with key names of its own.
        seed: of the weights; the same seed gives the same model.
        scale: a constant in the graph that the input is multiplied with.
        fault: what is wrong with it:
            reject_red: InvalidArgumentError when any image of the batch is pure red (255, 0, 0);
            reject_all: InvalidArgumentError on any batch;
            nan_on_blue: NaN for an image that is pure blue (0, 0, 255);
            nan_always: NaN for every image;
            batch_dependent: normalises by the batch without training as well, so that an
            image's vector depends on the images around it;
            scaled_by_batch_maximum: divides the images by the brightest value of the batch;
            changes_above_8: gives other vectors in batches of more than 8 images;
            no_values: vectors of no values, which the graph does not announce;
            non_deterministic: adds noise, as dropout does, other noise in every run;
            out_of_memory_above_N, such as out_of_memory_above_4: ResourceExhaustedError on a
            batch of more than N images;
            divides_by_255: scales its input itself, so that it wants values in [0, 255];
            failed_precondition: FailedPreconditionError on any batch;
            four_dimensional: a feature map `[n, h, w, 8]` in place of vectors;
            integers: int32 vectors;
            two_inputs: wants a second image tensor;
            text: takes strings in place of images.
        log: a file to which the network itself adds a line for each image that it is given: the
            sum of its pixels from 0 to 255. See `images_in_log`.

    Example:
        >>> save_tiny_model(tmp_path / "model", fault="reject_red") # doctest: +SKIP
    """
    import tensorflow as tf

    random = np.random.RandomState(seed)

    def variable(name: str, shape: tuple[int, ...], trainable: bool = True) -> Any:
        values = random.standard_normal(shape).astype(np.float32)
        return tf.Variable(values, name=name, trainable=trainable)

    features_width = 4 * _CHANNELS
    kernel = variable("kernel", (3, 3, 3, _CHANNELS))
    dense = variable("dense", (features_width, embedding_width))
    moving_mean = tf.Variable(tf.zeros(features_width), name="moving_mean", trainable=False)
    moving_variance = tf.Variable(tf.ones(features_width), name="moving_variance", trainable=False)

    def normalise(features: Any, training: bool, momentum: Any) -> Any:
        if not training and fault != "batch_dependent":
            return (features - moving_mean) / tf.sqrt(moving_variance + 1e-3)
        mean, variance = tf.nn.moments(features, axes=[0])
        moving_mean.assign(momentum * moving_mean + (1 - momentum) * mean)
        moving_variance.assign(momentum * moving_variance + (1 - momentum) * variance)
        return (features - mean) / tf.sqrt(variance + 1e-3)

    def vectors(images: Any, training: bool, momentum: Any) -> Any:
        images = _plant_before(fault, images)
        if log is not None:
            sums = tf.cast(tf.round(tf.reduce_sum(images * 255.0, [1, 2, 3])), tf.int32)
            lines = tf.strings.reduce_join(tf.strings.as_string(sums), separator="\n")
            tf.print(lines, output_stream=f"file://{Path(log).absolute()}")
        maps = tf.nn.conv2d((images - 0.5) * scale, kernel, strides=2, padding="SAME")
        if fault == "four_dimensional":
            return maps
        down = tf.linspace(-1.0, 1.0, tf.shape(maps)[1])[None, :, None, None]
        across = tf.linspace(-1.0, 1.0, tf.shape(maps)[2])[None, None, :, None]
        features = tf.concat(
            [
                tf.reduce_mean(maps, [1, 2]),
                tf.reduce_mean(maps * down, [1, 2]),
                tf.reduce_mean(maps * across, [1, 2]),
                tf.math.reduce_std(maps, [1, 2]),
            ],
            axis=1,
        )
        result = tf.linalg.matmul(normalise(features, training, momentum), dense)
        return _plant_after(fault, images, result)

    def call_on_images(inputs: Any, training: bool = False, batch_norm_momentum: Any = 0.99) -> Any:
        return vectors(inputs, training, batch_norm_momentum)

    def call_on_two(
        inputs: Any, masks: Any, training: bool = False, batch_norm_momentum: Any = 0.99
    ) -> Any:
        return vectors(inputs * masks, training, batch_norm_momentum)

    def call_on_text(inputs: Any, training: bool = False, batch_norm_momentum: Any = 0.99) -> Any:
        return tf.cast(tf.strings.length(inputs), tf.float32)[:, None] * dense[0]

    images = tf.TensorSpec([None, image_height, image_width, 3], tf.float32)
    if fault == "two_inputs":
        call, inputs = tf.function(call_on_two), {"inputs": images, "masks": images}
    elif fault == "text":
        call, inputs = tf.function(call_on_text), {"inputs": tf.TensorSpec([None], tf.string)}
    else:
        call, inputs = tf.function(call_on_images), {"inputs": images}

    for training in (False, True):
        for momentum in (0.99, tf.TensorSpec([], tf.float32)):
            call.get_concrete_function(**inputs, training=training, batch_norm_momentum=momentum)

    model = tf.train.Checkpoint()
    model.__call__ = call
    model.variables = [kernel, dense, moving_mean, moving_variance]
    model.trainable_variables = [kernel, dense]
    model.regularization_losses = []
    signatures = None
    if interface == "serving_default":
        names = {"inputs": SIGNATURE_INPUT, "masks": "masks"}
        specs = [tf.TensorSpec(i.shape, i.dtype, names[name]) for name, i in inputs.items()]

        def serve(*tensors: Any) -> dict[str, Any]:
            return {SIGNATURE_OUTPUT: call(*tensors)}

        signatures = {"serving_default": tf.function(serve, input_signature=specs)}
    tf.saved_model.save(model, str(folder), signatures=signatures)
    return str(folder)


def images_in_log(log: str | Path) -> list[int]:
    """The sum of the pixels of each image that a model with this log was given, in their order.

    Those that the trial of a model and the padding of its batches add are among them.
    """
    path = Path(log)
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def _plant_before(fault: str | None, images: Any) -> Any:
    """Return the images, behind an operation that fails as the fault says."""
    import tensorflow as tf

    if fault == "reject_red":
        reds = _is_colour(images, (1.0, 0.0, 0.0))
        with tf.control_dependencies([tf.debugging.Assert(~tf.reduce_any(reds), ["pure red"])]):
            return tf.identity(images)
    if fault == "reject_all":
        refused = tf.debugging.Assert(tf.shape(images)[0] < 0, ["every image is refused"])
        with tf.control_dependencies([refused]):
            return tf.identity(images)
    if fault == "scaled_by_batch_maximum":
        return images / tf.reduce_max(images)
    if fault == "divides_by_255":
        return images / 255.0
    if fault == "failed_precondition":
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="never_initialised")
        # Added to the images, because TensorFlow prunes what nothing takes a value from.
        return images + tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
    limit = re.fullmatch(r"out_of_memory_above_(\d+)", fault or "")
    if limit:
        return _within_memory(images, largest_batch=int(limit[1]))
    return images


def _within_memory(images: Any, largest_batch: int) -> Any:
    """Return the images, through a buffer that is too small for more of them.

    A staging area refuses at once what exceeds its memory limit. A real allocation that is too
    large raises the same error, but only after TensorFlow has tried for ten seconds.
    """
    import tensorflow as tf

    # Two bytes an image and an odd limit, because a limit of 0 would mean none.
    area = {"memory_limit": 2 * largest_batch + 1, "shared_name": f"staging_{largest_batch}"}
    ticket = tf.zeros([2 * tf.shape(images)[0]], tf.uint8)
    with tf.control_dependencies([tf.raw_ops.Stage(values=[ticket], **area)]):
        taken = tf.raw_ops.Unstage(dtypes=[tf.uint8], **area)
    with tf.control_dependencies(taken):
        return tf.identity(images)


def _plant_after(fault: str | None, images: Any, vectors: Any) -> Any:
    """Return the vectors, spoilt as the fault says."""
    import tensorflow as tf

    if fault == "nan_always":
        return vectors * float("nan")
    if fault == "nan_on_blue":
        blues = _is_colour(images, (0.0, 0.0, 1.0))
        return tf.where(blues[:, None], float("nan"), vectors)
    if fault == "non_deterministic":
        return vectors + 0.1 * tf.math.reduce_std(vectors) * tf.random.normal(tf.shape(vectors))
    if fault == "changes_above_8":
        return tf.where(tf.shape(vectors)[0] > 8, tf.reverse(vectors, [1]), vectors)
    if fault == "no_values":
        return tf.raw_ops.PlaceholderWithDefault(input=vectors[:, :0], shape=[None, None])
    if fault == "integers":
        return tf.cast(vectors * 1000, tf.int32)
    return vectors


def _is_colour(images: Any, colour: tuple[float, float, float]) -> Any:
    """Return bool [n]: True where an image has this colour nearly everywhere."""
    import tensorflow as tf

    return tf.reduce_max(tf.reduce_mean(tf.abs(images - colour), [1, 2]), axis=1) < 0.05
