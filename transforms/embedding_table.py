"""The embeddings of one output folder in memory, column by column."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.output_features import EMBEDDING, OUTPUT_FEATURES


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made the vectors: two vectors are comparable where all of this is the same."""

    model_handle: str
    model_fingerprint: str
    preprocess_fingerprint: str
    precision: str = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingTable:
    """The embeddings of one output folder, column by column; row i is one image."""

    uris: list[str]
    vectors: npt.NDArray[np.float32]
    """`float32 [n, width]`; `[0, width]` where no image was embedded, and `[n, 0]` where no
    embedding was asked for."""
    sha256: list[str]
    formats: list[str]
    heights: npt.NDArray[np.int64]
    """Of the originals, in pixels, after their orientation was applied."""
    widths: npt.NDArray[np.int64]
    """Of the originals, in pixels, after their orientation was applied."""
    provenance: Provenance | None
    """None where no image was embedded."""
    logits: npt.NDArray[np.float32] | None = None
    """`float32 [n, classes]`; None where they were not asked for."""
    class_indices: npt.NDArray[np.int64] | None = None
    """`int64 [n, k]`, the likeliest class first; None where no top classes were asked for."""
    class_probabilities: npt.NDArray[np.float32] | None = None
    """`float32 [n, k]`, of `class_indices` among all classes."""
    class_labels: npt.NDArray[np.object_] | None = None
    """`str [n, k]`, of `class_indices`; None where there was no file of labels."""

    def __len__(self) -> int:
        return len(self.uris)


def output_bytes(table: EmbeddingTable) -> int:
    """Return the size in memory of what the model gave, without the texts."""
    columns = (getattr(table, output.column) for output in OUTPUT_FEATURES.values())
    return sum(column.nbytes for column in columns if column is not None)


def concatenate(tables: list[EmbeddingTable], widths: Mapping[str, int]) -> EmbeddingTable:
    """Return one table of all rows; empties the list, so that no vector stays in memory twice.

    Args:
        tables: all of the same features.
        widths: of the output features that they have.
    """
    made_by = [table.provenance for table in tables if table.provenance is not None]
    provenance = made_by[0] if made_by else None
    empty = np.empty(0, np.int64)
    uris = [uri for table in tables for uri in table.uris]
    sha256 = [digest for table in tables for digest in table.sha256]
    formats = [name for table in tables for name in table.formats]
    heights = np.concatenate([empty, *(table.heights for table in tables)])
    image_widths = np.concatenate([empty, *(table.widths for table in tables)])
    end = len(uris)
    columns = {
        output.column: np.empty((end, widths.get(feature, 0)), output.dtype)
        for feature, output in OUTPUT_FEATURES.items()
        # Also of a folder without embeddings the vectors are an array.
        if feature in widths or feature == EMBEDDING
    }
    while tables:
        last = tables.pop()
        for name, column in columns.items():
            column[end - len(last) : end] = getattr(last, name)
        end -= len(last)
    return EmbeddingTable(
        uris=uris,
        sha256=sha256,
        formats=formats,
        heights=heights,
        widths=image_widths,
        provenance=provenance,
        **columns,
    )
