"""`EmbedImages`: from pixels to vectors, through Beam's RunInference."""

import time
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.typehints.decorators import no_annotations

from transforms.errors import ImageError
from transforms.networks.batch_isolation import Answer
from transforms.records import DecodedImage, Embedding, ImageInfo, Pixels, Twin
from transforms.step_parts.attempt_each import AttemptEach, Outcome
from transforms.workers.breaker import BreakerSettings


@dataclass(eq=False)
class EmbedImages(beam.PTransform):
    """Run the model over each `DecodedImage`: `Outcome[Embedding]`.

    The handler answers each image's pixels with an `EmbeddedPixels` or with an `ImageError`;
    errors become failures. The pixels go no further than the model. An image with twins gives an
    embedding, or a failure, for each of them too.

    Example:
        >>> embedded = decoded | EmbedImages(handler)  # doctest: +SKIP
    """

    handler: ModelHandler[Pixels, Answer, Any]
    breaker: BreakerSettings = BreakerSettings()

    @no_annotations  # See AttemptEach.
    def expand(self, decoded: beam.PCollection[DecodedImage]) -> Outcome:
        """Return the vector of each image, and the failures."""
        outcome: Outcome = (
            decoded
            | "KeyByInfo" >> beam.Map(lambda image: (image.info, image.pixels))
            | "RunInference" >> RunInference(KeyedModelHandler(self.handler))
            | "SplitAnswers"
            >> AttemptEach(
                stage="EmbedImages",
                past_tense="embedded",
                function=_embeddings,
                image_of=lambda keyed: keyed[0],
                breaker=self.breaker,
            )
        )
        return outcome


def _embeddings(keyed_answer: tuple[ImageInfo, Answer]) -> list[Embedding]:
    info, answer = keyed_answer
    if isinstance(answer, ImageError):
        raise answer
    now = time.time()
    images: list[ImageInfo | Twin] = [info, *info.twins]
    return [
        Embedding(
            replace(info, uri=image.uri, origin=image.origin, twins=()),
            answer.vector,
            # The twins have had no place in the batch.
            answer.batch_slots if image is info else 0.0,
            now,
        )
        for image in images
    ]
