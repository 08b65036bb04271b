"""A TF Hub image model: loaded, tried, and run on batches of pixels."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from transforms.errors import BatchRejected, BatchTooLarge, UnusableModel
from transforms.models.model_description import ModelDescription
from transforms.networks.fitted_function import fitted_function
from transforms.networks.model_loading import RunNetwork, load_network
from transforms.networks.tensorflow_errors import one_line
from transforms.networks.vector_distance import relative_distance
from transforms.records import Precision, Vector

#: How far the vector of an image may move, in parts of its length, when the images around it
#: change. Batch sizes that take other ways through oneDNN moved it by up to 3e-6 (Inception-
#: ResNet-v2 and MobileNet, float32); this much is a cosine distance of about 1e-5.
BATCH_TOLERANCE = 5e-3

#: The same in 16 bits, where a last digit is 2**-9: vectors in bfloat16 lie 2e-2 from those in
#: float32 (Inception-ResNet-v2). Here they did not move at all with the batch.
SHORT_TOLERANCE = 3e-2

#: Where a network that takes any size is tried, to tell how small an image it takes.
_PROBED_SIDES = (299, 600)

#: The large batch of a trial is that of the job within these bounds. Few images prove little about
#: many; and a driver need not have the memory for batches that are meant for a worker's GPU.
_LEAST_LARGE_BATCH, _MOST_LARGE_BATCH = 9, 32


def count_gpus() -> int:
    """Return how many GPUs TensorFlow sees in this process."""
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


class HubImageModel:
    """A loaded image model, from `uint8 [n, height, width, 3]` to `float32 [n, width]`.

    Pixels are scaled inside the graph, on the device that runs the network. Several threads
    may embed at once.

    Example:
        >>> description = describe_model(resolve_model(handle)) # doctest: +SKIP
        >>> model = HubImageModel.load(description, height=299, width=299) # doctest: +SKIP
        >>> model.embed(pixels).shape # doctest: +SKIP
        (32, 1536)
    """

    def __init__(
        self,
        description: ModelDescription,
        network: Any,
        run: RunNetwork,
        size: tuple[int, int],
        value_range: tuple[float, float],
        precision: Precision,
    ) -> None:
        import tensorflow as tf

        self.description = description
        # The graph does not keep the network's variables alive.
        self._network = network
        self._run = run
        self._size = size
        self._value_range = value_range
        self._precision = precision

        def embed(pixels: Any) -> Any:
            # A model fed with uint8 would cast it, without scaling and without a word.
            outputs = self.run_network(tf.cast(pixels, tf.float32) / 255.0)
            operations = tf.compat.v1.get_default_graph().get_operations()
            # Else a frozen graph would be without the checks that the network makes.
            with tf.control_dependencies([each for each in operations if each.op_def.is_stateful]):
                return [tf.identity(output) for output in outputs]

        specification = tf.TensorSpec([None, *size, 3], tf.uint8)
        function = tf.function(embed, input_signature=[specification], autograph=False)
        plain = function.get_concrete_function()
        self._embed = fitted_function(plain, description.path, precision)

    @classmethod
    def load(
        cls,
        description: ModelDescription,
        *,
        height: int,
        width: int,
        value_range: tuple[float, float] = (0.0, 1.0),
        precision: Precision = "float32",
    ) -> Self:
        """Load the network for images of `height` x `width` pixels.

        Args:
            description: of the model, by `describe_model`.
            height: of every image, in pixels.
            width: of every image, in pixels.
            value_range: what 0 and 255 become at the input of the network.
            precision: of the arithmetic; in 16 bits it is that of `reduced_precision`.

        Raises:
            UnusableModel: the model cannot be loaded, has nothing to compute in this precision,
                or does not take this size; the message then names the one it takes, or the
                smallest square.
        """
        own_size = (description.input_height, description.input_width)
        if description.fixed_size and own_size != (height, width):
            raise UnusableModel(
                f"{description.path} takes images of {own_size[0]} x {own_size[1]} only, not of "
                f"{height} x {width}"
            )
        import tensorflow as tf

        try:
            network, run = load_network(description)
        except (OSError, ValueError, TypeError, LookupError, tf.errors.OpError) as error:
            raise UnusableModel(
                f"{description.path} cannot be loaded: {one_line(error)}"
            ) from error
        try:
            return cls(description, network, run, (height, width), value_range, precision)
        except (ValueError, TypeError, LookupError, tf.errors.OpError) as error:
            fitting = _smallest_size(
                lambda side: cls(description, network, run, (side, side), value_range, "float32"),
                description,
                min(height, width),
            )
            raise UnusableModel(
                f"{description.path} cannot be run on images of {height} x {width}: "
                f"{one_line(error)}{fitting}"
            ) from error

    def for_size(self, height: int, width: int) -> Self:
        """Return the same network, which is not loaded again, for images of another size."""
        return self._changed(size=(height, width))

    def for_value_range(self, low: float, high: float) -> Self:
        """Return the same network, which is not loaded again, with other values for 0 and 255."""
        return self._changed(value_range=(low, high))

    def in_precision(self, precision: Precision) -> Self:
        """Return the same network, which is not loaded again, in another precision.

        Raises:
            UnusableModel: it has nothing to compute in this precision.
        """
        return self._changed(precision=precision)

    def _changed(self, **changes: Any) -> Self:
        settings: dict[str, Any] = {
            "size": self._size,
            "value_range": self._value_range,
            "precision": self._precision,
        }
        return type(self)(self.description, self._network, self._run, **(settings | changes))

    @property
    def precision(self) -> Precision:
        """Of the arithmetic."""
        return self._precision

    @property
    def value_range(self) -> tuple[float, float]:
        """What 0 and 255 become at the input of the network."""
        return self._value_range

    @property
    def network(self) -> Any:
        """The object that holds the network's variables, for saving them with another graph."""
        return self._network

    def run_network(self, images: Any) -> list[Any]:
        """Build the network into a graph: one tensor for each output of the description.

        Args:
            images: a tensor, `float32 [n, height, width, 3]`, RGB in [0, 1], of the size that
                the model was loaded for.
        """
        low, high = self._value_range
        return self._run(images * (high - low) + low)

    @property
    def embedding_width(self) -> int | None:
        """The width of the vectors; None where only a trial tells it."""
        return self.description.embedding_width

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return one vector for each image, in order.

        Args:
            pixels: `uint8 [n, height, width, 3]`, RGB.

        Returns:
            `float32 [n, width]`, the wanted outputs side by side, whatever the model gave: not
            checked for NaN.

        Raises:
            ValueError: the pixels have another dtype or shape.
            BatchRejected: the model refuses the batch as an invalid argument.
            BatchTooLarge: the device has no memory left for this batch.
            tensorflow.errors.OpError: anything else that goes wrong in the network.
        """
        outputs = self.embed_each(pixels)
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)

    def embed_each(self, pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """Return one array for each output of the description; see `embed`."""
        import tensorflow as tf

        # TensorFlow would call a wrong shape an invalid argument, as if an image were to blame.
        wanted = self._embed.inputs[0].shape
        if pixels.dtype != np.uint8 or not wanted.is_compatible_with(pixels.shape):
            raise ValueError(
                f"the pixels are {pixels.dtype} {list(pixels.shape)}; the model was loaded for "
                f"uint8 [n, {wanted[1]}, {wanted[2]}, 3]"
            )
        try:
            return [output.numpy() for output in self._embed(tf.constant(pixels))]
        except tf.errors.InvalidArgumentError as error:
            raise BatchRejected(one_line(error)) from error
        except tf.errors.ResourceExhaustedError as error:
            raise BatchTooLarge(one_line(error)) from error


def try_model(model: HubImageModel, height: int, width: int, batch_size: int | None = None) -> int:
    """Run the model on generated images, and return the width of its vectors; see `try_outputs`.

    Raises:
        UnusableModel: see `try_outputs`.
    """
    return sum(try_outputs(model, height, width, batch_size))


def try_outputs(
    model: HubImageModel, height: int, width: int, batch_size: int | None = None
) -> tuple[int, ...]:
    """Run the model on two generated images, and return the width of each of its outputs.

    A dark image and a bright one go in together and each alone. A batch that the device has no
    memory for is left out, as long as it takes single images.

    Args:
        model: loaded for this size.
        height: of the images, in pixels.
        width: of the images, in pixels.
        batch_size: of the job; the two images then also go in as a batch of so many, but of 9 at
            least and of 32 at most. None: this larger batch, which takes seconds, is left out.

    Raises:
        UnusableModel: the model fails, or gives anything but one finite vector an image, or a
            vector that depends on the other images of the batch or on chance. Where a network
            of variable size fails on this one, the message names the smallest size it takes.
    """
    import tensorflow as tf

    pixels = _trial_images(height, width)
    path = model.description.path

    def fitting() -> str:
        side = min(height, width)
        return _smallest_size(lambda i: model.for_size(i, i), model.description, side)

    def run(images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]] | None:
        """Return the outputs; None where there is no memory for more than one image."""
        count = len(images)
        try:
            outputs = model.embed_each(images)
        except (BatchRejected, BatchTooLarge, tf.errors.OpError) as error:
            if isinstance(error, BatchTooLarge) and count > 1:
                return None
            raise UnusableModel(
                f"{path} fails on a trial batch of {_images(count, 'generated ')} of "
                f"{height} x {width}: {type(error.__cause__ or error).__name__}: "
                f"{one_line(error)}{fitting()}"
            ) from error
        for vectors in outputs:
            _refuse_other_shapes(path, vectors, count)
            wrong = int(vectors.size - np.isfinite(vectors).sum())
            if wrong:
                raise UnusableModel(
                    f"{path} gives NaN or Inf in {wrong} of {vectors.size} values of a trial batch"
                    f"{fitting()}"
                )
        return outputs

    def run_alone() -> list[npt.NDArray[np.float32]]:
        single = [run(image[None]) or [] for image in pixels]
        return [np.concatenate(each) for each in zip(*single, strict=True)]

    together = run(pixels)
    alone = run_alone()
    batches = [together] if together else []
    if batch_size is not None:
        count = min(max(batch_size, _LEAST_LARGE_BATCH), _MOST_LARGE_BATCH)
        large = run(np.resize(pixels, (count, *pixels.shape[1:])))
        batches += [large] if large else []
    moved = max((_distance(alone, batch) for batch in batches), default=0.0)
    if moved > (BATCH_TOLERANCE if model.precision == "float32" else SHORT_TOLERANCE):
        by_chance = _distance(alone, run_alone())
        raise UnusableModel(
            f"{path} {_why_it_moves(moved, by_chance)}, so its vectors cannot be compared"
        )
    widths = tuple(vectors.shape[1] for vectors in alone)
    for output, width in zip(model.description.outputs, widths, strict=True):
        if output.width not in (None, width):
            raise UnusableModel(
                f"{path} gives {width} values as its {output.name}, but its description says "
                f"{output.width}; correct model.json"
            )
    return widths


def _refuse_other_shapes(path: str, vectors: npt.NDArray[np.float32], count: int) -> None:
    """Raise `UnusableModel` unless there is one vector for each of `count` images."""
    images = _images(count)
    if vectors.ndim != 2 or len(vectors) != count:
        kind = "a 4-D feature map" if vectors.ndim == 4 else "an array"
        numbers = [str(number) for number in vectors.shape]
        if vectors.shape[:1] == (count,):
            numbers[0] = "n"
        shape = ", ".join(numbers)
        raise UnusableModel(
            f"{path} gives {kind} [{shape}] for {images}, not one vector an image; it is no image "
            "feature model"
        )
    if vectors.shape[1] == 0:
        raise UnusableModel(
            f"{path} gives vectors without any value for {images}; it is no image feature model"
        )


def _images(count: int, kind: str = "") -> str:
    return f"{count} {kind}image" if count == 1 else f"{count} {kind}images"


def _distance(alone: list[Vector], batch: list[Vector]) -> float:
    """Return how far any vector of any output lies from that of the same image alone.

    Args:
        alone: one array for each output, with one vector for each image.
        batch: the same, of a batch that repeats these images in their order.
    """
    return max(
        relative_distance(vectors, np.resize(own, (len(vectors), own.shape[1])))
        if own.shape[1] == vectors.shape[1]
        else 1.0
        for own, vectors in zip(alone, batch, strict=True)
    )


def _why_it_moves(moved: float, by_chance: float) -> str:
    if by_chance > BATCH_TOLERANCE:
        return (
            f"gives one image two vectors in two runs, {by_chance:.1%} of their length apart: it "
            "is not deterministic (a random operation such as dropout is at work)"
        )
    return (
        f"gives an image another vector in a batch than alone, {moved:.1%} of its length apart: "
        "it changes with the batch around it (batch statistics are at work, as in training)"
    )


def _smallest_size(
    at_size: Callable[[int], HubImageModel], description: ModelDescription, too_small: int
) -> str:
    """Return the end of a sentence, with the smallest square that a network of any size takes.

    Nothing where no larger size helps.
    """
    import tensorflow as tf

    def takes(side: int) -> bool:
        try:
            vectors = at_size(side).embed(_trial_images(side, side)[1:])
        except (BatchRejected, BatchTooLarge, ValueError, TypeError, tf.errors.OpError):
            return False
        return bool(np.isfinite(vectors).all())

    sides = [side for side in _PROBED_SIDES if side > too_small and not description.fixed_size]
    fitting = next(filter(takes, sides), None)
    if fitting is None:
        return ""
    while fitting - too_small > 1:
        middle = (too_small + fitting) // 2
        too_small, fitting = (too_small, middle) if takes(middle) else (middle, fitting)
    return (
        f"; the smallest square image it takes is {fitting} x {fitting}: use a larger "
        "preprocess.size"
    )


def _trial_images(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return a dark grey ramp from the left to the right, and coloured noise.

    The ramp is dark, up to 0.3 of white, to show a model that scales a batch by its brightest.
    """
    ramp = np.linspace(0, 76, width, dtype=np.uint8)
    noise = np.random.RandomState(0).randint(0, 256, (height, width, 3), np.uint8)
    return np.stack([np.broadcast_to(ramp[None, :, None], noise.shape), noise])
