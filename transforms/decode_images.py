"""`DecodeImages`: from bytes to pixels at the model's input size."""

from dataclasses import dataclass
from functools import partial

import apache_beam as beam
from apache_beam.typehints.decorators import no_annotations

from transforms.images.image_codec import decode_image
from transforms.records import (
    DEFAULT_MAX_PIXELS,
    DecodedImage,
    ImageInfo,
    Preprocessing,
    RawImage,
)
from transforms.step_parts.attempt_each import AttemptEach, Outcome
from transforms.workers.breaker import BreakerSettings

#: Two batches of the usual size: one for the model, and the next one. 18 MB at 299 x 299.
_AHEAD = 64


@dataclass(eq=False)
class DecodeImages(beam.PTransform):
    """Decode, turn, and resize each `RawImage` as the contract says: `Outcome[DecodedImage]`.

    What the decoder cannot read, and what is over `max_pixels`, becomes a failure.

    With several threads, each thread of a worker has others decode ahead of the model, and the
    next batch is ready when the model is. Pillow gives the interpreter's lock away meanwhile.

    Example:
        >>> contract = Preprocessing(height=299, width=299)
        >>> decoded = raw_images | DecodeImages(contract)  # doctest: +SKIP
    """

    preprocessing: Preprocessing
    max_pixels: int = DEFAULT_MAX_PIXELS
    breaker: BreakerSettings = BreakerSettings()
    threads: int = 1

    @no_annotations  # See AttemptEach.
    def expand(self, raw_images: beam.PCollection[RawImage]) -> Outcome:
        """Return the pixels of each image, and the failures."""
        outcome: Outcome = raw_images | "Decode" >> AttemptEach(
            stage="DecodeImages",
            past_tense="decoded",
            function=partial(_decode, preprocessing=self.preprocessing, max_pixels=self.max_pixels),
            image_of=lambda raw: raw,
            breaker=self.breaker,
            timing="decode-msec",
            threads=self.threads,
            ahead=max(_AHEAD, 4 * self.threads),
            bytes_of=partial(_bytes_held, preprocessing=self.preprocessing),
        )
        return outcome


def _bytes_held(raw: RawImage, preprocessing: Preprocessing) -> int:
    return len(raw.content) + 3 * preprocessing.height * preprocessing.width


def _decode(raw: RawImage, preprocessing: Preprocessing, max_pixels: int) -> list[DecodedImage]:
    decoded = decode_image(raw.content, preprocessing, max_pixels)
    info = ImageInfo(
        uri=raw.uri,
        sha256=raw.sha256,
        format=decoded.format,
        height=decoded.height,
        width=decoded.width,
        origin=raw.origin,
        twins=raw.twins,
    )
    return [DecodedImage(info, decoded.pixels)]
