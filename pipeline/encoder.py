"""`ImageEncoder`: images in, vectors out, on one machine and without a pipeline."""

import io
import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, Literal, NamedTuple, cast, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.config import ModelConfig, PreprocessConfig
from pipeline.input_size import settle_preprocessing
from pipeline.output_layout import request_for_handle
from transforms.errors import (
    ImageError,
    ImageTooLarge,
    InvalidUri,
    RequestError,
    UndecodableImage,
)
from transforms.images.image_codec import decode_image, preprocess_image
from transforms.models.model_description import ModelDescription, describe_model
from transforms.models.model_resolution import resolve_model
from transforms.networks.batch_isolation import IsolatingEmbedder
from transforms.networks.device import prepare_device, why_not
from transforms.networks.hub_model import HubImageModel, try_model
from transforms.records import (
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_PIXELS,
    ImageRef,
    ModelRequest,
    Pixels,
    Precision,
    Preprocessing,
    Vector,
)
from transforms.sources.image_reading import read_image
from transforms.storage.file_listing import is_http
from transforms.storage.http_source import HttpSettings, shown_url

DEFAULT_MODEL: str = ModelConfig().handle

ImageSource = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | io.BufferedIOBase
    | Image.Image
    | npt.NDArray[np.uint8]
)
"""A path, an http(s) URL or a URI such as gs://; the bytes of an image file, or an open one; a
PIL image; or `uint8 [H, W, 3]` RGB, `[H, W]` grey or `[H, W, 4]` RGBA."""

#: Decoding lets go of Python's lock, and waiting for storage costs no processor.
READING_THREADS = min(16, 4 + (os.cpu_count() or 1))


class _Attempt(NamedTuple):
    """What came of reading one image of many."""

    place: int
    name: str
    outcome: Pixels | ImageError


class ImageEncoder:
    """Turns images into vectors, with the very pixels and the very model of the pipeline.

    Several threads may use one encoder.

    Args:
        model: a handle as for `--model`.
        request: which signature and which outputs of the model; None: its embedding.
        batch_size: the most images in one call of the model.
        precision: of the arithmetic, as model.precision of the configuration.
        preprocess: the same settings as the section `preprocess` of the configuration.
        max_bytes: of one image file.
        max_pixels: of one image file; an image that is already open is taken at any size.
        http: time-out, and whether URLs may lead into private networks.

    Raises:
        RequestError: the model cannot be used (`UnusableModel`), or names no input size; or this
            machine does not compute in the precision.
        ValueError: a setting is out of its range.

    Example:
        >>> encoder = ImageEncoder("models/mobilenet")  # doctest: +SKIP
        >>> encoder.encode("photos/cat.jpg").shape  # doctest: +SKIP
        (1024,)
        >>> vectors = encoder.bulk_encode(["a.jpg", "b.jpg"], on_error="none")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        request: ModelRequest | None = None,
        batch_size: int = 32,
        precision: Precision = "float32",
        preprocess: PreprocessConfig = PreprocessConfig(),
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        http: HttpSettings = HttpSettings(),
    ) -> None:
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._http = http
        prepare_device()
        reason = why_not(precision)
        if reason is not None:
            raise RequestError(f"this machine does not compute in {precision}: {reason}")
        request = request_for_handle(request or ModelRequest(), model)
        self._description = describe_model(resolve_model(model), request)
        self._preprocessing = settle_preprocessing(preprocess, model, self._description)
        height, width = self._preprocessing.height, self._preprocessing.width
        self._model = HubImageModel.load(
            self._description,
            height=height,
            width=width,
            value_range=self._preprocessing.value_range,
            precision=precision,
        )
        self._width = try_model(self._model, height, width)
        self._embedder = self._embedder_for(batch_size)

    @property
    def width(self) -> int:
        """The number of values of each vector."""
        return self._width

    @property
    def description(self) -> ModelDescription:
        """What the model takes and gives, and its fingerprint."""
        return self._description

    @property
    def preprocessing(self) -> Preprocessing:
        """The contract between the pixels and the vectors."""
        return self._preprocessing

    @property
    def untrained(self) -> bool:
        """Whether the weights are random: good for trying things out, not for search."""
        return self._description.untrained

    def read(self, image: ImageSource) -> Pixels:
        """Return the pixels as the model wants them: `uint8 [height, width, 3]`, RGB.

        Reading these pixels again changes nothing, so `encode(read(image))` is `encode(image)`.

        Raises:
            ImageError: there is no such image, it may not be read, or it cannot be decoded.
            OSError: a storage such as gs:// failed, also when tried again.
            TypeError, ValueError: `image` is of another type, dtype or shape; nothing is guessed.

        Example:
            >>> encoder.read("https://example.org/photo.jpg").shape  # doctest: +SKIP
            (299, 299, 3)
        """
        if isinstance(image, Image.Image):
            if 0 in image.size:
                width, height = image.size
                raise UndecodableImage(f"the image is {width} x {height}, so it has no pixels")
            return preprocess_image(image, self._preprocessing)
        if isinstance(image, np.ndarray):
            return preprocess_image(_image_of_array(image), self._preprocessing)
        if isinstance(image, str | os.PathLike):
            uri = os.fspath(image)
            if not uri:
                raise InvalidUri("the source is empty; give a path or a URL")
            content = read_image(ImageRef(uri), self._max_bytes, self._http).content
        elif isinstance(image, io.BufferedIOBase):
            content = image.read(self._max_bytes + 1)
        elif isinstance(image, bytes | bytearray | memoryview):
            content = bytes(image)
        else:
            raise TypeError(
                f"an image cannot be a {type(image).__name__}; give a path, a URL, the bytes of an "
                "image file, a PIL image or a uint8 array"
            )
        if len(content) > self._max_bytes:
            raise ImageTooLarge(
                f"the image has more than the {self._max_bytes:,} bytes of max_bytes"
            )
        return decode_image(content, self._preprocessing, self._max_pixels).pixels

    def encode(self, image: ImageSource) -> Vector:
        """Return the vector of one image: `float32 [width]`, finite.

        Raises:
            ImageError: the image cannot be read, or the model refuses it.
            BrokenModel: the model fails on any image.
            OSError, TypeError, ValueError: as for `read`.

        Example:
            >>> encoder.encode("photos/cat.jpg").dtype  # doctest: +SKIP
            dtype('float32')
        """
        answer = self._embedder.embed_images([self.read(image)])[0]
        if isinstance(answer, ImageError):
            raise answer
        return answer.vector

    @overload
    def bulk_encode(
        self,
        images: Iterable[ImageSource],
        batch_size: int | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> list[Vector]: ...

    @overload
    def bulk_encode(
        self,
        images: Iterable[ImageSource],
        batch_size: int | None = None,
        *,
        on_error: Literal["none"],
    ) -> list[Vector | None]: ...

    def bulk_encode(
        self,
        images: Iterable[ImageSource],
        batch_size: int | None = None,
        on_error: Literal["raise", "none"] = "raise",
    ) -> list[Vector] | list[Vector | None]:
        """Return the vectors of many images, in their order.

        Images are read ahead in a few threads, one batch of them at most, so that a generator
        may yield any number. An open image or array is read before the next one is asked for.

        Args:
            images: any iterable; a folder is listed with
                `transforms.storage.file_listing.list_files`. Of the arrays of numbers,
                `uint8 [N, H, W, 3]` or `[N, H, W, 4]`.
            batch_size: the most images in one call of the model; None: that of the encoder.
            on_error: what a bad image does. "raise": its error is raised, with a message that
                begins with its place in the order. "none": None stands in its place.

        Raises:
            ImageError: of the first bad image, with `on_error="raise"`.
            BrokenModel: every image of a batch of several failed in the model.
            OSError, TypeError, ValueError: as for `read`, whatever `on_error` says, with a note
                that names the image.
            TypeError: `images` is a single image.
            ValueError: `batch_size` is not a positive int.

        Example:
            >>> encoder.bulk_encode(["a.jpg", "no.jpg"], on_error="none")[1]  # doctest: +SKIP
        """
        if on_error not in ("raise", "none"):
            raise ValueError(f"on_error is {on_error!r}; use 'raise' or 'none'")
        if _is_single(images):
            raise TypeError(
                "bulk_encode takes several images; put one into a list, and list a folder with "
                f"transforms.storage.file_listing.list_files (this is {_described(images)})"
            )
        embedder = self._embedder if batch_size is None else self._embedder_for(batch_size)
        vectors: list[Vector | None] = []
        batch: list[tuple[_Attempt, Pixels]] = []

        def settle(attempt: _Attempt, outcome: Vector | ImageError) -> None:
            if not isinstance(outcome, ImageError):
                vectors[attempt.place] = outcome
            elif on_error == "raise":
                where = f"images[{attempt.place}] ({attempt.name})"
                raise type(outcome)(f"{where}: {outcome}") from outcome

        def embed_batch() -> None:
            answers = embedder.embed_images([pixels for _, pixels in batch])
            for (attempt, _), answer in zip(batch, answers, strict=True):
                settle(attempt, answer if isinstance(answer, ImageError) else answer.vector)
            batch.clear()

        # Closed at once: a traceback would keep the threads of an abandoned generator alive.
        with closing(self._read_in_order(images, ahead=embedder.largest_batch())) as attempts:
            for attempt in attempts:
                vectors.append(None)
                if isinstance(attempt.outcome, ImageError):
                    settle(attempt, attempt.outcome)
                    continue
                batch.append((attempt, attempt.outcome))
                if len(batch) >= embedder.largest_batch():
                    embed_batch()
            if batch:
                embed_batch()
        return cast(list[Vector], vectors)

    def _read_in_order(
        self, images: Iterable[ImageSource], ahead: int
    ) -> Generator[_Attempt, None, None]:
        waiting: deque[_Attempt | Future[_Attempt]] = deque()
        threads = ThreadPoolExecutor(READING_THREADS, "read-images")
        try:
            for place, image in enumerate(images):
                if isinstance(image, str | os.PathLike | bytes):
                    waiting.append(threads.submit(self._attempt, place, image))
                else:
                    # Whoever yields it may change it as soon as the next one is asked for, as
                    # a loop over the frames of a film does.
                    waiting.append(self._attempt(place, image))
                if len(waiting) > ahead:
                    yield _finished(waiting.popleft())
            while waiting:
                yield _finished(waiting.popleft())
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _attempt(self, place: int, image: ImageSource) -> _Attempt:
        name = _name(image)
        try:
            return _Attempt(place, name, self.read(image))
        except ImageError as error:
            return _Attempt(place, name, error)
        except Exception as error:
            error.add_note(f"This was images[{place}] ({name}).")
            raise

    def _embedder_for(self, batch_size: int) -> IsolatingEmbedder:
        # True is an int, too.
        whole = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool)
        if not whole or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; it must be an int of at least 1")
        return IsolatingEmbedder(
            self._model.embed, embedding_width=self._width, largest_batch=int(batch_size)
        )


def _finished(attempt: _Attempt | Future[_Attempt]) -> _Attempt:
    return attempt.result() if isinstance(attempt, Future) else attempt


def _name(image: ImageSource) -> str:
    if not isinstance(image, str | os.PathLike):
        return type(image).__name__
    path = os.fspath(image)
    return shown_url(path) if is_http(path) else path or "''"


def _is_single(images: object) -> bool:
    """Return whether this is one image, though many of them can be iterated over, too."""
    if isinstance(images, np.ndarray):
        # An array of strings or objects may be a column of paths, and its items are judged.
        return images.ndim != 4 and images.dtype.kind not in "OTU"
    return isinstance(
        images,
        str | os.PathLike | bytes | bytearray | memoryview | io.BufferedIOBase | Image.Image,
    )


def _described(images: object) -> str:
    if isinstance(images, np.ndarray):
        return f"an array of the shape {list(images.shape)}"
    return f"of the type {type(images).__name__}"


def _image_of_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        raise TypeError(
            f"the array is {array.dtype}; give uint8 from 0 to 255. Of floats from 0 to 1, "
            "(array * 255).round().astype('uint8') makes one; of floats from 0 to 255, "
            "array.round().astype('uint8')"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(
            f"the array has the shape {list(array.shape)}; give one image, [H, W, 3] RGB, [H, W] "
            "grey or [H, W, 4] RGBA"
        )
    if 0 in array.shape:
        raise UndecodableImage(f"the array has the shape {list(array.shape)}, so no pixels")
    return Image.fromarray(np.ascontiguousarray(array))
