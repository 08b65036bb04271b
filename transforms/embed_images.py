"""`EmbedImages`: from pixels to vectors, through Beam's RunInference."""

from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.typehints.decorators import no_annotations

from transforms.attempt_each import AttemptEach, Outcome
from transforms.batch_isolation import Answer
from transforms.breaker import BreakerSettings
from transforms.errors import ImageError
from transforms.records import DecodedImage, Embedding, ImageInfo, Pixels


@dataclass(eq=False)
class EmbedImages(beam.PTransform):
    """Run the model over each `DecodedImage`: `Outcome[Embedding]`.

    The handler answers each image's pixels with an `EmbeddedPixels` or with an `ImageError`;
    errors become failures. The pixels go no further than the model.

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
                function=_embedding,
                uri_of=lambda keyed: keyed[0].uri,
                breaker=self.breaker,
            )
        )
        return outcome


def _embedding(keyed_answer: tuple[ImageInfo, Answer]) -> Embedding:
    info, answer = keyed_answer
    if isinstance(answer, ImageError):
        raise answer
    return Embedding(info, answer.vector, answer.batch_slots)
