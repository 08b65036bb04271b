"""The vocabulary of the job: one frozen record per stage, and the preprocessing contract.

ImageRef -> RawImage -> DecodedImage -> Embedding
                any step that fails on one image -> Failure
       what earlier runs have done already -> LedgerEntry
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Fit = Literal["squash", "center_crop", "pad"]
Kernel = Literal["bilinear", "bicubic", "lanczos3", "nearest"]
ScaledDecoding = Literal["off", "auto"]
Orientation = Literal["exif", "ignore"]
OutputName = Literal["embedding", "logits"]
ModelKind = Literal["feature_vector", "classification"]
Precision = Literal["float32", "bfloat16", "float16"]
ShortFloat = Literal["bfloat16", "float16"]
GpuUse = Literal["optional", "expected", "required"]
ColumnKind = Literal["string", "int64", "float64", "bool"]
CarriedValue = str | int | float | bool | None

Pixels = npt.NDArray[np.uint8]
"""RGB, shape `[height, width, 3]`."""

Vector = npt.NDArray[np.float32]
"""One embedding, shape `[width of the model]`."""

#: Files of a folder that count as images; a pattern or a list names its files itself.
IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif", ""),
)

#: 64 MiB: a photograph of a hundred megapixels has less.
DEFAULT_MAX_BYTES = 64 * 2**20

#: Pillow's own limit, Image.MAX_IMAGE_PIXELS, a quarter of a gigabyte at three bytes a pixel. It
#: opens nothing above twice as many:
#: https://pillow.readthedocs.io/en/stable/reference/Image.html
DEFAULT_MAX_PIXELS = 89_478_485

#: Raised whenever the same settings would give other pixels than before.
PREPROCESSING_VERSION = 1


class _Element:
    """A record of which there is one for each image, and which is pickled by its values.

    Dataclasses with slots look up their fields for each instance, on both sides: 15 % of the
    processor time of a job over tiny images.
    """

    __slots__: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class CarriedColumn:
    """A column of the input, such as a manifest, that goes along into every output."""

    name: str
    kind: ColumnKind = "string"


@dataclass(frozen=True, slots=True)
class Origin(_Element):
    """What goes along with an image from its listing to its row, besides its URI."""

    generation: str | None = None
    """Which version of the bytes it is: the generation of an object in a bucket, or the
    modification time and the size of a local file. None where nothing tells, as for a URL."""
    carried: tuple[CarriedValue, ...] = ()
    """One value for each of the job's carried columns, in their order; () where there are none."""


@dataclass(frozen=True, slots=True)
class ImageRef(_Element):
    """Where an image lies, and what the listing already knows about it."""

    uri: str
    size_bytes: int | None = None
    """None where no listing told the size, as for the entries of a list of URIs."""
    updated: float | None = None
    """Seconds since the epoch, or None where no listing told it."""
    origin: Origin = Origin()
    checksum: str | None = None
    """Of the content, as the listing tells it: md5:... or crc32c:..., in hexadecimal digits."""
    known_sha256: str | None = None
    """Of the content that an earlier run embedded, where only its bytes can tell whether it has
    changed since."""
    twins: tuple["ImageRef", ...] = ()
    """Other images that seem to hold the same bytes; they have no twins themselves."""


@dataclass(frozen=True, slots=True)
class Twin(_Element):
    """Another URI under which the very same bytes lie."""

    uri: str
    origin: Origin = Origin()


@dataclass(frozen=True, slots=True)
class RawImage(_Element):
    """The bytes of one image as they were stored."""

    uri: str
    content: bytes
    sha256: str
    """Of `content`, 64 hexadecimal digits."""
    origin: Origin = Origin()
    twins: tuple[Twin, ...] = ()
    """What becomes of this image becomes of them, too."""


@dataclass(frozen=True, slots=True)
class ImageInfo(_Element):
    """What is known of a decoded image besides its pixels."""

    uri: str
    sha256: str
    format: str
    """JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF or HEIF."""
    height: int
    """Of the original, in pixels, after its orientation was applied."""
    width: int
    """Of the original, in pixels, after its orientation was applied."""
    origin: Origin = Origin()
    twins: tuple[Twin, ...] = ()
    """What becomes of this image becomes of them, too."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage(_Element):
    """One image as the model wants it: `uint8 [H, W, 3]` RGB at the model's input size."""

    info: ImageInfo
    pixels: Pixels


@dataclass(frozen=True, slots=True, eq=False)
class Embedding(_Element):
    """The vector of one image: `float32 [width of the model]`, finite."""

    info: ImageInfo
    vector: Vector
    """All outputs that were asked for, side by side, as `OutputLayout` says."""
    batch_slots: float
    """Places of the padded batch that this image paid for: 1.0 in a full batch, 2.0 in a
    batch that was half padding, 0.0 for a twin, which had no place. Its mean over those above
    zero is one over the mean batch fill."""
    embedded_at: float = 0.0
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Failure(_Element):
    """Why one image has no embedding; one line of the dead letters."""

    uri: str
    stage: str
    """The step that failed: ReadImages, DecodeImages or EmbedImages."""
    error: str
    """The class of the error, such as UndecodableImage."""
    message: str
    failed_at: str
    """ISO 8601, UTC."""
    carried: tuple[CarriedValue, ...] = ()
    """As of `Origin`, so that nothing is lost when the image is tried again."""


@dataclass(frozen=True, slots=True)
class LedgerEntry(_Element):
    """That an image is embedded, from which bytes, and by what: a line of the ledger.

    Two entries of the same `key` are about the same row; the later one counts.
    """

    uri: str
    generation: str | None
    sha256: str
    model_fingerprint: str
    preprocess_fingerprint: str
    precision: str
    run_id: str
    """Of the run whose output holds the vector."""
    embedded_at: float
    """Seconds since the epoch."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """URI, model, preprocessing and precision: there is one live row for each of these."""
        return self.uri, self.model_fingerprint, self.preprocess_fingerprint, self.precision


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What is wanted of a model, and what the user knows of it beyond its files.

    The default is right for every published feature vector.

    Raises:
        ValueError: nothing is wanted, something twice, or something that no model gives.

    Example:
        >>> ModelRequest(wanted=("embedding", "logits")).output is None
        True
    """

    signature: str | None = None
    """Of the model, by name; None: the usual ones are looked for."""
    output: str | None = None
    """Which result is the embedding: its key, or the name of a tensor of the graph, such as the
    one before the logits of a classifier. Of the logits, where these alone are wanted."""
    wanted: tuple[OutputName, ...] = ("embedding",)
    """In the order in which each vector is to hold them."""
    kind: ModelKind | None = None
    """What the handle says the model is; None where it says nothing."""

    def __post_init__(self) -> None:
        names = ", ".join(get_args(OutputName))
        if not self.wanted:
            raise ValueError(f"no output is wanted of the model; name one or both of {names}")
        for name in self.wanted:
            if name not in get_args(OutputName) or self.wanted.count(name) > 1:
                raise ValueError(f"the outputs are {list(self.wanted)}; name each of {names} once")


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """Where the outputs lie in the model's vector, and what of them is written.

    The embedding comes first, the logits behind it.

    Raises:
        ValueError: nothing is written, or more than the model gives.

    Example:
        >>> layout = OutputLayout(embedding_width=1536, classes=1001, top_classes=5)
        >>> layout.logits
        slice(1536, 2537, None)
    """

    embedding_width: int
    """0 where no embedding is wanted; else it is written."""
    classes: int = 0
    """How many classes the model tells apart: the width of the logits; 0 where none are wanted."""
    writes_logits: bool = False
    top_classes: int = 0
    """So many of the likeliest classes are written, with their probabilities."""
    labels: tuple[str, ...] | None = None
    """The names of all classes in their order, written beside the likeliest ones."""

    def __post_init__(self) -> None:
        if not (self.embedding_width or self.writes_logits or self.top_classes):
            raise ValueError("no output is written; ask for an embedding, logits or top classes")
        if self.writes_logits and not self.classes:
            raise ValueError("the logits are to be written, but there are none")
        if self.top_classes > self.classes:
            raise ValueError(
                f"top_classes is {self.top_classes}, but the model tells only {self.classes} "
                f"classes apart; use {self.classes} or less"
            )
        if self.labels is not None and not self.top_classes:
            raise ValueError("labels are for the top classes only, and these are not asked for")
        if self.labels is not None and len(self.labels) != self.classes:
            raise ValueError(
                f"labels has {len(self.labels):,} lines, but the model tells {self.classes:,} "
                "classes apart; give one line a class, that of class 0 first (class 0 of TF Hub's "
                "1,001 ImageNet classes is the background)"
            )

    @property
    def width(self) -> int:
        """The number of values of the model's vector."""
        return self.embedding_width + self.classes

    @property
    def embedding(self) -> slice:
        """Where the embedding lies in the vector."""
        return slice(0, self.embedding_width)

    @property
    def logits(self) -> slice:
        """Where the logits lie in the vector."""
        return slice(self.embedding_width, self.width)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The contract between the pixels and the vectors; it travels into every output.

    The default agrees with `tf.image.resize(image, size, antialias=True)` on the decoded
    RGB image, and with the [0, 1] input that TF Hub's image models share
    (https://www.tensorflow.org/hub/common_signatures/images).

    Raises:
        ValueError: a value out of its range, or kernel and antialias that do not go together.

    Example:
        >>> Preprocessing(height=299, width=299).fingerprint()[:12] # doctest: +SKIP
    """

    height: int
    width: int
    fit: Fit = "squash"
    """squash: resize both sides, whatever the proportions; center_crop: the largest centred
    part of the right proportions; pad: the whole image, with bands of the background."""
    kernel: Kernel = "bilinear"
    antialias: bool = True
    """Widen the kernel by the shrinking factor. False is the plain form of most tutorials."""
    scaled_decoding: ScaledDecoding = "off"
    """auto: let the JPEG decoder shrink by 2, 4 or 8 while it decodes, never below twice the
    model's input size."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """What 0 and 255 become at the input of the network."""
    orientation: Orientation = "exif"
    """exif: turn the image as its EXIF orientation says; ignore: as it is stored."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB, 0 to 255: what shows through transparent pixels, and the bands of `pad`."""

    def __post_init__(self) -> None:
        # Equal contracts have equal fingerprints: (0, 1) is (0.0, 1.0), a list is a tuple.
        low, high = map(float, self.value_range)
        object.__setattr__(self, "value_range", (low, high))
        object.__setattr__(self, "background", tuple(map(int, self.background)))
        for name, allowed in (
            ("fit", get_args(Fit)),
            ("kernel", get_args(Kernel)),
            ("scaled_decoding", get_args(ScaledDecoding)),
            ("orientation", get_args(Orientation)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; use one of {', '.join(allowed)}"
                )
        if self.height < 1 or self.width < 1:
            raise ValueError(f"the target size is {self.height} x {self.width}; both sides need 1")
        if self.kernel == "nearest" and self.antialias:
            raise ValueError("kernel 'nearest' cannot antialias; set antialias to false with it")
        if not low < high:
            raise ValueError(f"value_range is {self.value_range}; the first must be the smaller")
        if len(self.background) != 3 or any(not 0 <= value <= 255 for value in self.background):
            raise ValueError(f"background is {self.background}; use three values from 0 to 255")

    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of a SHA-256 over every setting.

        Two contracts with the same fingerprint give the same pixels from the same bytes.
        """
        settings = {"version": PREPROCESSING_VERSION, **asdict(self)}
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]
