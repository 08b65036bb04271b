"""Export a model with signatures that other engines can call, decoding included.

The decoding inside the graph is TensorFlow's, not Pillow's. What it does otherwise than
`transforms.images.image_codec` is listed in docs/models.md, and measured by the tests.
"""

from typing import Any

from transforms.networks.hub_model import HubImageModel

#: The feature of a tf.Example that holds the encoded image.
IMAGE_FEATURE = "image/encoded"

SERVING_SIGNATURES = ("serving_default", "from_bytes", "from_example")


def export_serving(model: HubImageModel, folder: str, *, height: int, width: int) -> None:
    """Save a SavedModel with the signatures below, which share one network and its weights.

    | signature         | argument                                                              |
    |-------------------|-----------------------------------------------------------------------|
    | `serving_default` | `pixels`: float32 `[n, height, width, 3]`, RGB in [0, 1]              |
    | `from_bytes`      | `image_bytes`: string `[n]`, encoded JPEG or PNG                      |
    | `from_example`    | `examples`: string `[n]`, serialized tf.Examples with `image/encoded` |

    Each gives a float32 `[n, width]` for every output of the model, under its name: `embedding`,
    `logits`. The last two decode, put transparent PNGs on white, and resize as
    `Preprocessing(height, width)` does by default, but for the EXIF orientation. One file that
    is neither JPEG nor PNG, or corrupt, fails the whole batch: a graph has no dead letters.

    It loads with `tf.saved_model.load`, without any package of ours.

    Args:
        model: loaded for images of this size.
        folder: new, or empty.
        height: of the model's input, in pixels.
        width: of the model's input, in pixels.

    Raises:
        OSError, tensorflow.errors.OpError: the folder cannot be written.

    Example:
        >>> export_serving(model, "serving", height=299, width=299)  # doctest: +SKIP
        >>> loaded = tf.saved_model.load("serving")  # doctest: +SKIP
        >>> loaded.signatures["from_bytes"](tf.constant([jpeg]))["embedding"]  # doctest: +SKIP
    """
    import tensorflow as tf

    def from_pixels(pixels: Any) -> dict[str, Any]:
        names = [output.name for output in model.description.outputs]
        return dict(zip(names, model.run_network(pixels), strict=True))

    def from_bytes(image_bytes: Any) -> dict[str, Any]:
        return from_pixels(
            tf.map_fn(
                lambda content: _decoded_and_resized(content, height, width),
                image_bytes,
                fn_output_signature=tf.TensorSpec([height, width, 3], tf.float32),
            )
        )

    def from_example(examples: Any) -> dict[str, Any]:
        features = {IMAGE_FEATURE: tf.io.FixedLenFeature([], tf.string)}
        return from_bytes(tf.io.parse_example(examples, features)[IMAGE_FEATURE])

    def function(body: Any, **specification: Any) -> Any:
        ((name, (shape, dtype)),) = specification.items()
        spec = tf.TensorSpec(shape, dtype, name)
        return tf.function(body, input_signature=[spec], autograph=False)

    module = tf.Module()
    module.network = model.network
    tf.saved_model.save(
        module,
        folder,
        signatures={
            "serving_default": function(from_pixels, pixels=([None, height, width, 3], tf.float32)),
            "from_bytes": function(from_bytes, image_bytes=([None], tf.string)),
            "from_example": function(from_example, examples=([None], tf.string)),
        },
    )


def _decoded_and_resized(content: Any, height: int, width: int) -> Any:
    """Return float32 [height, width, 3] in [0, 1] of one encoded image, a scalar string."""
    import tensorflow as tf

    def jpeg() -> Any:
        # Without INTEGER_ACCURATE the pixels differ by up to 4 levels from Pillow's.
        pixels = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
        return tf.cast(pixels, tf.float32)

    def png() -> Any:
        pixels = tf.cast(tf.io.decode_png(content, channels=4), tf.float32)
        alpha, bits = pixels[..., 3:], tf.io.decode_raw(tf.strings.substr(content, 24, 1), tf.uint8)
        # TensorFlow gives opaque pixels of less than 8 bits the largest alpha of their own depth.
        is_opaque = tf.reduce_all(alpha == 2.0 ** tf.cast(bits, tf.float32) - 1.0)
        opacity = tf.where(is_opaque, 1.0, alpha / 255.0)
        return tf.round(pixels[..., :3] * opacity + 255.0 * (1.0 - opacity))

    def neither() -> Any:
        # Without the bytes themselves: TensorFlow cannot raise a message that is no UTF-8.
        message = ["neither a JPEG nor a PNG; the file has this many bytes:", size]
        with tf.control_dependencies([tf.debugging.Assert(False, message)]):
            return tf.zeros([1, 1, 3], tf.float32)

    size = tf.strings.length(content)
    image = tf.case(
        [
            (tf.strings.substr(content, 0, 3) == b"\xff\xd8\xff", jpeg),
            (tf.strings.substr(content, 0, 8) == b"\x89PNG\r\n\x1a\n", png),
        ],
        default=neither,
        exclusive=True,
    )
    image.set_shape([None, None, 3])
    # Pillow resizes rows, then columns, and has whole levels after either. Without the first
    # rounding the vectors of the untrained Inception-ResNet-v2 are up to 2e-3 from the pipeline's.
    rows = _resized(image, tf.shape(image)[0], width)
    return tf.ensure_shape(_resized(rows, height, width), [height, width, 3]) / 255.0


def _resized(image: Any, height: Any, width: Any) -> Any:
    import tensorflow as tf

    resized = tf.image.resize(image, [height, width], method="bilinear", antialias=True)
    return tf.floor(tf.clip_by_value(resized, 0.0, 255.0) + 0.5)
