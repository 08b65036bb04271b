"""The features of an example that hold what the model gave: those that a run asks for.

How they are written, and how they are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2

from transforms.formats.top_classes import top_classes
from transforms.records import Embedding, OutputLayout

EMBEDDING = "embedding"
LOGITS = "logits"
CLASS_INDEX = "classes/index"
CLASS_PROBABILITY = "classes/probability"
CLASS_LABEL = "classes/label"


@dataclass(frozen=True, slots=True)
class OutputFeature:
    """How one of these features is written and read."""

    kind: int
    """A value of TensorFlow Metadata's `FeatureType`."""
    column: str
    """The field of `EmbeddingTable` that holds it."""
    dtype: type[np.generic]
    """Of that field."""


OUTPUT_FEATURES: Mapping[str, OutputFeature] = {
    EMBEDDING: OutputFeature(schema_pb2.FLOAT, "vectors", np.float32),
    LOGITS: OutputFeature(schema_pb2.FLOAT, "logits", np.float32),
    CLASS_INDEX: OutputFeature(schema_pb2.INT, "class_indices", np.int64),
    CLASS_PROBABILITY: OutputFeature(schema_pb2.FLOAT, "class_probabilities", np.float32),
    CLASS_LABEL: OutputFeature(schema_pb2.BYTES, "class_labels", np.object_),
}


def feature_widths(layout: OutputLayout) -> dict[str, int]:
    """Return how many values an example has of each of these features that it has.

    Example:
        >>> feature_widths(OutputLayout(embedding_width=8, classes=3, top_classes=2))
        {'embedding': 8, 'classes/index': 2, 'classes/probability': 2}
    """
    widths = {
        EMBEDDING: layout.embedding_width,
        LOGITS: layout.classes if layout.writes_logits else 0,
        CLASS_INDEX: layout.top_classes,
        CLASS_PROBABILITY: layout.top_classes,
        CLASS_LABEL: layout.top_classes if layout.labels is not None else 0,
    }
    return {feature: width for feature, width in widths.items() if width}


def stack_vectors(embeddings: Sequence[Embedding], layout: OutputLayout) -> npt.NDArray[np.float32]:
    """Return the vectors of at least one image as one array `[n, layout.width]`.

    Raises:
        ValueError: a vector has another width than the layout, or than the others.
        TypeError: a vector is not float32.
    """
    count = len(embeddings)
    width = len(embeddings[0].vector)
    # Arrow's allocator keeps its pages from call to call, malloc gives these back each time.
    buffer = pa.allocate_buffer(count * width * 4)
    values = np.frombuffer(buffer, np.float32)
    vectors = [embedding.vector for embedding in embeddings]
    widths = {len(vector) for vector in vectors}
    if len(widths) > 1:
        raise ValueError(
            f"all vectors must have the same shape, and these have the widths {sorted(widths)}"
        )
    if layout.width != width:
        raise ValueError(f"the vectors have {width} values, but the layout has {layout.width}")
    np.concatenate(vectors, out=values, casting="no")  # Half the time of np.stack.
    return values.reshape(count, width)


def values_of(vectors: npt.NDArray[np.float32], layout: OutputLayout) -> dict[str, pa.Array]:
    """Return the values of each feature that the layout writes, row after row.

    Args:
        vectors: of the model, `float32 [n, layout.width]`, finite.
        layout: what of them is written.
    """
    values = {}
    if layout.embedding_width:
        values[EMBEDDING] = pa.array(vectors[:, layout.embedding].reshape(-1))
    logits = vectors[:, layout.logits]
    if layout.writes_logits:
        values[LOGITS] = pa.array(logits.reshape(-1))
    if layout.top_classes:
        top = top_classes(logits, layout.top_classes)
        values[CLASS_INDEX] = pa.array(top.indices.reshape(-1))
        values[CLASS_PROBABILITY] = pa.array(top.probabilities.reshape(-1))
        if layout.labels is not None:
            names = pa.array(layout.labels, pa.large_binary())
            values[CLASS_LABEL] = names.take(values[CLASS_INDEX])
    return values


def rows_of(values: pa.Array, width: int) -> npt.NDArray[Any]:
    """Return the values of one feature as an array `[n, width]`, texts as `str` objects.

    Numbers are not copied.

    Args:
        values: of all rows, one after the other.
        width: of a row.
    """
    if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
        numbers: npt.NDArray[Any] = values.to_numpy().reshape(-1, width)
        return numbers
    # Few labels and many rows: each text is kept once.
    coded = values.dictionary_encode()
    texts = np.array(coded.dictionary.cast(pa.large_string()).to_pylist(), np.object_)
    rows: npt.NDArray[Any] = texts[coded.indices.to_numpy()].reshape(-1, width)
    return rows
