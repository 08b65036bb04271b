"""The embeddings of one output folder in memory, column by column."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.formats.output_features import EMBEDDING, OUTPUT_FEATURES
from transforms.records import CarriedValue

# Memory in pieces of this size goes back to the operating system as soon as it is free; from
# 32 MB on malloc maps each piece by itself. See mallopt(3), M_MMAP_THRESHOLD.
_BLOCK_BYTES = 64 << 20


#: The columns of every output that name a set of comparable vectors, in the order of `set_key`.
SET_COLUMNS = ("model_fingerprint", "preprocess_fingerprint", "precision")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made the vectors: two vectors are comparable where all of this is the same."""

    model_handle: str
    model_fingerprint: str
    preprocess_fingerprint: str
    precision: str = "float32"

    @property
    def set_key(self) -> tuple[str, str, str]:
        """What tells one set of comparable vectors from another; the handle does not.

        The values of `SET_COLUMNS`; also what follows the URI in `LedgerEntry.key`.
        """
        return self.model_fingerprint, self.preprocess_fingerprint, self.precision

    def in_words(self) -> str:
        """Return what a message says of it."""
        return (
            f"{self.model_handle} (fingerprint {self.model_fingerprint}, preprocessing "
            f"{self.preprocess_fingerprint}, {self.precision})"
        )


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingTable:
    """The embeddings of one output folder, column by column; row i is one image."""

    uris: list[str]
    vectors: npt.NDArray[np.float32]
    """`float32 [n, width]`; `[0, width]` where no image was embedded, and `[n, 0]` where no
    embedding was asked for."""
    sha256: list[str]
    generations: list[str | None]
    """Which version of each file it was; None where nothing told, as for a URL."""
    formats: list[str]
    heights: npt.NDArray[np.int64]
    """Of the originals, in pixels, after their orientation was applied."""
    widths: npt.NDArray[np.int64]
    """Of the originals, in pixels, after their orientation was applied."""
    carried: dict[str, list[CarriedValue]]
    """The columns of the input that went along, by name; None where an image has no value."""
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


def one_provenance(uniques: Iterable[list[str]], earlier: Provenance | None) -> Provenance:
    """Return the one provenance of all rows, which is also that of the earlier rows.

    Args:
        uniques: the different values among the rows of each field of `Provenance`.
        earlier: of the rows before these, if there were any.

    Raises:
        ValueError: two rows differ in a field.
    """
    made_by = []
    for place, (name, texts) in enumerate(
        zip(Provenance.__dataclass_fields__, uniques, strict=True)
    ):
        if earlier is not None:
            texts = list(dict.fromkeys([astuple(earlier)[place], *texts]))
        if len(texts) > 1:
            raise ValueError(
                "the folder mixes the rows of two runs, whose vectors cannot be compared: "
                f"{name} is {texts[0]!r} and {texts[1]!r}"
            )
        made_by.append(texts[0])
    return Provenance(*made_by)


def collect(
    tables: Iterable[EmbeddingTable], widths: Mapping[str, int], carried: Iterable[str] = ()
) -> EmbeddingTable:
    """Return one table of all rows of many small ones, of which none stays in memory.

    For where nobody knows how many rows there are; else `fill` takes less time and memory.

    Args:
        tables: all of the same features, of a megabyte or a few each.
        widths: of the output features that they have.
        carried: names of the carried columns, which the result has also where there is no row.
    """
    blocks: list[EmbeddingTable] = []
    pending: list[EmbeddingTable] = []
    for table in tables:
        pending.append(table)
        if sum(map(output_bytes, pending)) >= _BLOCK_BYTES:
            blocks.append(concatenate(pending, widths))
    blocks.append(concatenate(pending, widths))
    return concatenate(blocks, widths, carried)


def concatenate(
    tables: list[EmbeddingTable], widths: Mapping[str, int], carried: Iterable[str] = ()
) -> EmbeddingTable:
    """Return one table of all rows; empties the list, so that no vector stays in memory twice.

    Args:
        tables: all of the same output features and of one provenance. A carried column that some
            of them lack is None in their rows.
        widths: of the output features that they have.
        carried: names of carried columns that the result has in any case, in this order.
    """
    names = dict.fromkeys([*carried, *(name for table in tables for name in table.carried)])
    return fill(_taken_from(tables), sum(map(len, tables)), widths, names)


def _taken_from(tables: list[EmbeddingTable]) -> Iterator[EmbeddingTable]:
    tables.reverse()
    while tables:
        yield tables.pop()


def fill(
    tables: Iterable[EmbeddingTable], rows: int, widths: Mapping[str, int], carried: Iterable[str]
) -> EmbeddingTable:
    """Return one table of so many rows, each of which is copied once as it comes along.

    Args:
        tables: as for `concatenate`, with so many rows together.
        rows: so many.
        widths: of the output features that they have.
        carried: names of the carried columns.
    """
    provenance: Provenance | None = None
    uris: list[str] = []
    sha256: list[str] = []
    generations: list[str | None] = []
    formats: list[str] = []
    values: dict[str, list[CarriedValue]] = {name: [] for name in carried}
    columns: dict[str, npt.NDArray[Any]] = {
        output.column: np.empty((rows, widths.get(feature, 0)), output.dtype)
        for feature, output in OUTPUT_FEATURES.items()
        # Also of a folder without embeddings the vectors are an array.
        if feature in widths or feature == EMBEDDING
    }
    columns |= {name: np.empty(rows, np.int64) for name in ("heights", "widths")}
    for table in tables:
        start = len(uris)
        provenance = provenance or table.provenance
        uris += table.uris
        sha256 += table.sha256
        generations += table.generations
        formats += table.formats
        for name, column in values.items():
            column += table.carried.get(name) or [None] * len(table)
        for name, array in columns.items():
            array[start : start + len(table)] = getattr(table, name)
    return EmbeddingTable(
        uris=uris,
        sha256=sha256,
        generations=generations,
        formats=formats,
        carried=values,
        provenance=provenance,
        **columns,
    )
