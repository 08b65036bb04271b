"""What a plan measures on this machine: decoding a sample, and the model on its batches."""

import itertools
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pipeline.config import InputConfig
from transforms.errors import BrokenModel, ImageError, JobError, RequestError
from transforms.images.image_codec import DecodedPixels, decode_image, decodes_smaller
from transforms.networks.batch_isolation import IsolatingEmbedder
from transforms.records import ImageRef, Pixels, Preprocessing, RawImage
from transforms.sources.image_reading import read_image
from transforms.storage.http_source import HttpSettings

#: As many as a worker's thread keeps under way. No more are held at a time: with the default
#: input.max_bytes a gigabyte if all were as large as allowed.
_READING_THREADS = 16

#: Calls of the model that are timed, after one that is not: the first of a batch size is slow.
_LEAST_CALLS, _MOST_CALLS = 3, 50
_LEAST_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ScaledDecodingGain:
    """What `preprocess.scaled_decoding=auto` would change for a job that does without."""

    images: int
    """So many of the sample would be decoded at a smaller scale."""
    sample: int
    """All that were read."""
    times_as_fast: float
    """The time that decoding the sample takes, divided by that with scaled decoding."""


@dataclass(slots=True)
class DecodedSample:
    """What came of the images of a sample. Somebody else may read the counts meanwhile."""

    read: int = 0
    read_bytes: int = 0
    unknown_sizes: int = 0
    """How many of those that were read had no size in the listing."""
    unknown_bytes: int = 0
    """What these have together."""
    formats: Counter[str] = field(default_factory=Counter)
    megapixels: list[float] = field(default_factory=list)
    """Of every decoded image, before it was resized."""
    failures: Counter[str] = field(default_factory=Counter)
    """By the class of the error."""
    decoding_seconds: float = 0.0
    """Of all threads together, for those that were read, also where decoding failed."""
    scaled: int = 0
    """Images that `preprocess.scaled_decoding=auto` decodes at a smaller scale, unlike the job."""
    scaled_decoding_seconds: float = 0.0
    """As `decoding_seconds`, with `preprocess.scaled_decoding=auto`."""
    pixels: list[Pixels] = field(default_factory=list)
    """Of the first images, for a batch of the model: `uint8 [height, width, 3]` each."""

    @property
    def done(self) -> int:
        """How many images were looked at."""
        return self.formats.total() + self.failures.total()

    @property
    def decoded_per_second(self) -> float | None:
        """Images a second of one processor thread; None where none could be decoded.

        What is no image is refused in no time, which says nothing of images.
        """
        return self.read / self.decoding_seconds if self.formats else None

    @property
    def scaled_decoding_gain(self) -> ScaledDecodingGain | None:
        """What scaled decoding would change; None where it changes nothing, or is on already."""
        if not self.scaled:
            return None
        return ScaledDecodingGain(
            images=self.scaled,
            sample=self.read,
            times_as_fast=self.decoding_seconds / self.scaled_decoding_seconds,
        )


def processor_count() -> int:
    """Return how many processor threads this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_sample(
    refs: Sequence[ImageRef],
    config: InputConfig,
    preprocessing: Preprocessing,
    batch_size: int,
    sample: DecodedSample,
) -> None:
    """Read and decode images with the job's own functions and limits, into `sample`.

    As many are decoded at once as there are processor threads, and nothing else is done meanwhile.
    What `scaled_decoding=auto` would decode at a smaller scale is decoded in both ways, by turns
    the one first and the other.

    Args:
        refs: of the images.
        config: of the inputs, for its limits.
        preprocessing: of the job.
        batch_size: so many decoded images are kept.
        sample: empty.

    Raises:
        RequestError: a storage fails, whatever the image.
    """
    http = HttpSettings(config.http_timeout_seconds, config.allow_private_addresses)

    def read(ref: ImageRef) -> RawImage | ImageError:
        try:
            return read_image(ref, config.max_bytes, http)
        except ImageError as error:
            return error
        except (OSError, JobError) as error:
            raise RequestError(f"{ref.uri} cannot be read: {error}") from error

    scaled_decoding = replace(preprocessing, scaled_decoding="auto")

    def decode(raw: RawImage, how: Preprocessing) -> _TimedDecoding:
        started = time.perf_counter()
        try:
            result: DecodedPixels | ImageError = decode_image(raw.content, how, config.max_pixels)
        except ImageError as error:
            result = error
        return _TimedDecoding(result, time.perf_counter() - started)

    def decode_both_ways(raw: RawImage, place: int) -> tuple[_TimedDecoding, _TimedDecoding | None]:
        if preprocessing == scaled_decoding or not decodes_smaller(raw.content, scaled_decoding):
            return decode(raw, preprocessing), None
        if place % 2:
            scaled = decode(raw, scaled_decoding)
            return decode(raw, preprocessing), scaled
        return decode(raw, preprocessing), decode(raw, scaled_decoding)

    warm = False
    with (
        ThreadPoolExecutor(_READING_THREADS) as readers,
        ThreadPoolExecutor(processor_count()) as decoders,
    ):
        for part in _parts(refs):
            images = []
            for ref, raw in zip(part, readers.map(read, part), strict=True):
                if isinstance(raw, ImageError):
                    sample.failures[type(raw).__name__] += 1
                    continue
                images.append(raw)
                _count_read(sample, ref, raw)
            if images and not warm:
                # The first image of a process waits for Pillow to load its plug-ins.
                decode(images[0], preprocessing)
                warm = True
            for plain, scaled in decoders.map(decode_both_ways, images, itertools.count()):
                sample.decoding_seconds += plain.seconds
                sample.scaled_decoding_seconds += (scaled or plain).seconds
                sample.scaled += scaled is not None
                _count_decoded(sample, plain.result, batch_size)


class _TimedDecoding(NamedTuple):
    result: DecodedPixels | ImageError
    seconds: float


def _parts(refs: Sequence[ImageRef]) -> Iterator[Sequence[ImageRef]]:
    for start in range(0, len(refs), _READING_THREADS):
        yield refs[start : start + _READING_THREADS]


def _count_read(sample: DecodedSample, ref: ImageRef, raw: RawImage) -> None:
    sample.read += 1
    sample.read_bytes += len(raw.content)
    if ref.size_bytes is None:
        sample.unknown_sizes += 1
        sample.unknown_bytes += len(raw.content)


def _count_decoded(
    sample: DecodedSample, result: DecodedPixels | ImageError, batch_size: int
) -> None:
    if isinstance(result, ImageError):
        sample.failures[type(result).__name__] += 1
        return
    sample.formats[result.format] += 1
    sample.megapixels.append(result.height * result.width / 1e6)
    if len(sample.pixels) < batch_size:
        sample.pixels.append(result.pixels)


def inference_rate(
    embedder: IsolatingEmbedder,
    pixels: Sequence[Pixels],
    batch_size: int,
) -> float:
    """Return how many images a second the model embeds, in full batches, one call at a time.

    The median of several calls, with all that a worker does between pixels and vectors.

    Args:
        embedder: loaded.
        pixels: one or more, to make a batch of, over and over.
        batch_size: of the job.

    Raises:
        RequestError: the model fails on the batch.
    """
    batch = [pixels[place % len(pixels)] for place in range(batch_size)]
    rates: list[float] = []
    total = 0.0
    try:
        embedder.embed_images(batch)
        while len(rates) < _LEAST_CALLS or (total < _LEAST_SECONDS and len(rates) < _MOST_CALLS):
            started = time.perf_counter()
            embedder.embed_images(batch)
            seconds = time.perf_counter() - started
            total += seconds
            rates.append(len(batch) / seconds)
    except BrokenModel as error:
        raise RequestError(f"the model fails on a batch of the sample: {error}") from error
    return statistics.median(rates)
