"""A TF Hub image model: found by its handle, loaded, tried, and run on batches of pixels."""

import inspect
import re
import tarfile
import urllib.error
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from transforms.errors import BatchRejected, BatchTooLarge, UnusableModel
from transforms.model_description import ModelDescription
from transforms.untrained_model import UNTRAINED_HANDLE, untrained_model_folder


def resolve_model(handle: str) -> str:
    """Return the local folder of the model that `handle` names.

    A handle is a folder with a SavedModel, an https:// address of TF Hub's protocol
    (https://www.tensorflow.org/hub/hosting), which is downloaded once to TFHUB_CACHE_DIR, or
    `untrained:inception_resnet_v2`, which is built once.

    Raises:
        UnusableModel: the handle leads to no model; the message says what was found.

    Example:
        >>> resolve_model("untrained:inception_resnet_v2") # doctest: +SKIP
    """
    scheme, colon, _ = handle.partition(":")
    if scheme == "untrained" and colon:
        if handle != UNTRAINED_HANDLE:
            raise UnusableModel(f"there is no model {handle!r}; did you mean {UNTRAINED_HANDLE!r}?")
        return untrained_model_folder()
    if handle.startswith(("http://", "https://")):
        return _download(handle)
    if re.match(r"\w+://", handle):
        raise UnusableModel(
            f"models cannot be read from {scheme}:// yet; copy {handle} to a local folder first"
        )
    return _checked_folder(handle)


def _checked_folder(handle: str) -> str:
    folder = Path(handle)
    if (folder / "saved_model.pb").is_file():
        return handle
    if folder.is_file():
        hint = (
            f"{folder.parent}" if folder.name == "saved_model.pb" else "the folder of a SavedModel"
        )
        raise UnusableModel(f"the model {handle} is a file; give {hint}")
    if not handle or not folder.is_dir():
        raise UnusableModel(
            f"the model {handle!r} is no folder that exists, no https:// address, and not "
            f"{UNTRAINED_HANDLE!r}"
        )
    entries = sorted(folder.iterdir())
    models = [entry for entry in entries if (entry / "saved_model.pb").is_file()]
    if models:
        raise UnusableModel(
            f"{handle} holds no saved_model.pb, but {models[0]} does; give that one"
        )
    names = [entry.name for entry in entries[:5]] + ["..."] * (len(entries) > 5)
    holds = f"it holds {', '.join(names)}" if names else "it is empty"
    raise UnusableModel(f"{handle} is no SavedModel, for it has no saved_model.pb; {holds}")


def _download(handle: str) -> str:
    import tensorflow as tf
    import tensorflow_hub

    elsewhere = "or download the model on another machine and give its folder"
    try:
        folder = str(tensorflow_hub.resolve(handle))
    except urllib.error.HTTPError as error:
        raise UnusableModel(
            f"{handle} was answered with {error.code} {error.reason}; check the address, which "
            f"must be public and end in a version such as /4, {elsewhere}"
        ) from error
    except (OSError, tarfile.TarError, EOFError, ValueError, tf.errors.OpError) as error:
        raise UnusableModel(
            f"{handle} cannot be downloaded: {error}; check the network and the address, "
            f"{elsewhere}"
        ) from error
    if not (Path(folder) / "saved_model.pb").is_file():
        # A clean-up by age leaves half a folder (https://github.com/tensorflow/hub/issues/850).
        raise UnusableModel(
            f"{handle} was downloaded to {folder}, which has no saved_model.pb; remove that "
            "folder and run again"
        )
    return folder


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

    def __init__(self, description: ModelDescription, network: Any, embed: Any) -> None:
        self.description = description
        # The graph does not keep the network's variables alive.
        self._network = network
        self._embed = embed

    @classmethod
    def load(
        cls,
        description: ModelDescription,
        *,
        height: int,
        width: int,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> Self:
        """Load the network for images of `height` x `width` pixels.

        Args:
            description: of the model, by `describe_model`.
            height: of every image, in pixels.
            width: of every image, in pixels.
            value_range: what 0 and 255 become at the input of the network.

        Raises:
            UnusableModel: the model does not take this size, or cannot be loaded.
        """
        own_size = (description.input_height, description.input_width)
        if description.fixed_size and own_size != (height, width):
            raise UnusableModel(
                f"{description.path} takes images of {own_size[0]} x {own_size[1]} only, not of "
                f"{height} x {width}"
            )
        import tensorflow as tf

        low, high = value_range
        try:
            network = tf.saved_model.load(description.path)
            run = _entry(network, description)

            def embed(pixels: Any) -> Any:
                # A model fed with uint8 would cast it, without scaling and without a word.
                images = tf.cast(pixels, tf.float32) / 255.0 * (high - low) + low
                return tf.cast(run(images), tf.float32)

            specification = tf.TensorSpec([None, height, width, 3], tf.uint8)
            function = tf.function(embed, input_signature=[specification], autograph=False)
            return cls(description, network, function.get_concrete_function())
        except (OSError, ValueError, TypeError, tf.errors.OpError) as error:
            raise UnusableModel(
                f"{description.path} cannot be loaded for images of {height} x {width}: "
                f"{_one_line(error)}"
            ) from error

    @property
    def embedding_width(self) -> int | None:
        """The width of the vectors; None where only a trial tells it."""
        return self.description.embedding_width

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return one vector for each image, in order.

        Args:
            pixels: `uint8 [n, height, width, 3]`, RGB.

        Returns:
            `float32 [n, width]`, whatever the model gave: not checked for NaN.

        Raises:
            ValueError: the pixels have another dtype or shape.
            BatchRejected: the model refuses the batch as an invalid argument.
            BatchTooLarge: the device has no memory left for this batch.
            tensorflow.errors.OpError: anything else that goes wrong in the network.
        """
        import tensorflow as tf

        # TensorFlow would call a wrong shape an invalid argument, as if an image were to blame.
        wanted = self._embed.inputs[0].shape
        if pixels.dtype != np.uint8 or not wanted.is_compatible_with(pixels.shape):
            raise ValueError(
                f"the pixels are {pixels.dtype} {list(pixels.shape)}; the model was loaded for "
                f"uint8 [n, {wanted[1]}, {wanted[2]}, 3]"
            )
        try:
            vectors: npt.NDArray[np.float32] = self._embed(tf.constant(pixels)).numpy()
        except tf.errors.InvalidArgumentError as error:
            raise BatchRejected(_one_line(error)) from error
        except tf.errors.ResourceExhaustedError as error:
            raise BatchTooLarge(_one_line(error)) from error
        return vectors


def _entry(network: Any, description: ModelDescription) -> Any:
    """Return a function from the image tensor to the tensor of vectors."""
    input_key, key = description.input_key, description.output_key
    if input_key is None:
        call = network.__call__
        takes_training = "training" in inspect.signature(call).parameters
        arguments = {"training": False} if takes_training else {}
        if key is None:
            return lambda images: call(images, **arguments)
        return lambda images: call(images, **arguments)[key]
    signature = network.signatures[description.entry_point]
    return lambda images: signature(**{input_key: images})[key]


def try_model(model: HubImageModel, height: int, width: int) -> int:
    """Run the model on two generated images, and return the width of its vectors.

    Raises:
        UnusableModel: it fails, or gives anything but one finite vector an image.
    """
    import tensorflow as tf

    pixels = _trial_images(height, width)
    path = model.description.path
    try:
        try:
            vectors = model.embed(pixels)
        except BatchTooLarge:
            vectors = np.concatenate([model.embed(image[None]) for image in pixels])
    except (BatchRejected, BatchTooLarge, tf.errors.OpError) as error:
        raise UnusableModel(
            f"{path} fails on a trial batch of {len(pixels)} generated images of "
            f"{height} x {width}: {type(error.__cause__ or error).__name__}: {_one_line(error)}"
        ) from error
    if vectors.ndim != 2 or len(vectors) != len(pixels):
        kind = "a 4-D feature map" if vectors.ndim == 4 else "an array"
        shape = ", ".join(["n", *map(str, vectors.shape[1:])])
        raise UnusableModel(
            f"{path} gives {kind} [{shape}] for {len(pixels)} images, not one vector an image; "
            "it is no image feature model"
        )
    wrong = int(vectors.size - np.isfinite(vectors).sum())
    if wrong:
        raise UnusableModel(
            f"{path} gives NaN or Inf in {wrong} of {vectors.size} values of a trial batch"
        )
    return int(vectors.shape[1])


def _trial_images(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return a grey ramp from the left to the right, and coloured noise."""
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    noise = np.random.RandomState(0).randint(0, 256, (height, width, 3), np.uint8)
    return np.stack([np.broadcast_to(ramp[None, :, None], noise.shape), noise])


def _one_line(error: Exception) -> str:
    """Return what TensorFlow's message says, without where in its graph it happened."""
    message = getattr(error, "message", None) or str(error)
    message = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:[^\]]*\]", "", message)
    idle = ("Graph execution error", "Detected at node", "<stack traces", "Hint:", "File ")
    lines = (line.strip() for line in message.splitlines())
    return " ".join(line for line in lines if line and not line.startswith(idle))
