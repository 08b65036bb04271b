"""Embeddings with everything that an output can hold, for the tests of the formats."""

import numpy as np

from transforms.formats.embedding_rows import RowStamp
from transforms.formats.embedding_table import EmbeddingTable, Provenance
from transforms.records import (
    CarriedColumn,
    CarriedValue,
    Embedding,
    ImageInfo,
    Origin,
    OutputLayout,
)

WIDTH, CLASSES = 5, 3
LABELS = ("background", "Hund", "кошка")
EMBEDDING = OutputLayout(WIDTH)
LOGITS = OutputLayout(0, CLASSES, writes_logits=True)
TOP = OutputLayout(0, CLASSES, top_classes=2)
ALL = OutputLayout(WIDTH, CLASSES, writes_logits=True, top_classes=2, labels=LABELS)

PROVENANCE = Provenance("/models/größe/4", "0123456789abcdef", "fedcba9876543210")
RUN_ID = "20261120T063000Z-0123abcd"

COLUMNS = (
    CarriedColumn("label"),
    CarriedColumn("price", "float64"),
    CarriedColumn("stock", "int64"),
    CarriedColumn("sold", "bool"),
)
#: Of one image each. The floats are such that float32 holds them.
CARRIED: tuple[tuple[CarriedValue, ...], ...] = (
    ("кошка", 1.5, 2**63 - 1, True),
    ("", -0.0, -(2**63), False),
    (None, None, None, None),
    (),
)


def stamp(layout: OutputLayout = EMBEDDING, columns: tuple[CarriedColumn, ...] = ()) -> RowStamp:
    return RowStamp(PROVENANCE, RUN_ID, layout, columns)


def embedding(
    number: int, layout: OutputLayout = EMBEDDING, carried: tuple[CarriedValue, ...] = ()
) -> Embedding:
    """One whose every field depends on the number; each third is without a generation."""
    generation = None if number % 3 == 0 else str(1_700_000_000_000_000 + number)
    return Embedding(
        ImageInfo(
            f"/фото/写真 {number}.jpg",
            f"{number:064x}",
            "PNG" if number % 2 else "JPEG",
            number,
            number + 70_000,
            Origin(generation, carried),
        ),
        np.random.default_rng(number).standard_normal(layout.width).astype(np.float32),
        batch_slots=1.0,
        embedded_at=1_795_156_485.993_59 + number,
    )


def with_everything(count: int = len(CARRIED)) -> list[Embedding]:
    return [embedding(n, ALL, CARRIED[n % len(CARRIED)]) for n in range(count)]


def assert_holds(table: EmbeddingTable, embeddings: list[Embedding], layout: OutputLayout) -> None:
    """Check that the table holds these embeddings, in their order, bit for bit."""
    infos = [one.info for one in embeddings]
    vectors = np.stack([one.vector for one in embeddings])
    assert table.uris == [info.uri for info in infos]
    assert table.sha256 == [info.sha256 for info in infos]
    assert table.generations == [info.origin.generation for info in infos]
    assert table.formats == [info.format for info in infos]
    assert table.heights.tolist() == [info.height for info in infos]
    assert table.widths.tolist() == [info.width for info in infos]
    assert table.provenance == PROVENANCE
    assert table.vectors.dtype == np.float32
    assert table.vectors.tobytes() == vectors[:, layout.embedding].tobytes()
    logits = vectors[:, layout.logits]
    assert (table.logits is not None) == layout.writes_logits
    assert table.logits is None or table.logits.tobytes() == logits.tobytes()
    likeliest = np.argsort(-logits, axis=1)[:, : layout.top_classes]
    assert (table.class_indices is not None) == bool(layout.top_classes)
    assert table.class_indices is None or table.class_indices.tolist() == likeliest.tolist()
    assert (table.class_labels is not None) == (layout.labels is not None)
    if layout.labels is not None and table.class_labels is not None:
        names = [[layout.labels[index] for index in row] for row in likeliest]
        assert table.class_labels.tolist() == names
    if layout.top_classes:
        powers = np.exp(logits.astype(np.float64))
        probabilities = np.take_along_axis(powers / powers.sum(1, keepdims=True), likeliest, 1)
        np.testing.assert_allclose(table.class_probabilities, probabilities, rtol=1e-6)
