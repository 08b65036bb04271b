"""Logits and top classes in the examples: what is written is what is read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.public import tfxio

from transforms.formats.embedding_table import Provenance
from transforms.formats.tf_example import (
    embeddings_schema,
    embeddings_schema_text,
    encode_embeddings,
)
from transforms.formats.tfrecord_file import read_records
from transforms.formats.top_classes import softmax
from transforms.records import Embedding, ImageInfo, OutputLayout
from transforms.search.read_embeddings import read_embeddings

GOLDEN = Path(__file__).parents[2] / "golden" / "embeddings"
PROVENANCE = Provenance("the/model", "0123456789abcdef", "fedcba9876543210")
WIDTH, CLASSES = 4, 3
LABELS = ("background", "Hund", "кошка")
ALL = OutputLayout(WIDTH, CLASSES, writes_logits=True, top_classes=2, labels=LABELS)
EMBEDDING = OutputLayout(WIDTH)
LOGITS = OutputLayout(0, CLASSES, writes_logits=True)
TOP = OutputLayout(0, CLASSES, top_classes=2)
LABELLED = OutputLayout(0, CLASSES, top_classes=2, labels=LABELS)


def embedding(number: int, layout: OutputLayout) -> Embedding:
    vector = np.random.default_rng(number).standard_normal(layout.width).astype(np.float32)
    return Embedding(ImageInfo(f"/{number}.jpg", f"{number:064x}", "JPEG", 1, 2), vector, 1.0)


def examples(layout: OutputLayout, count: int = 1) -> list[bytes]:
    return encode_embeddings([embedding(n, layout) for n in range(count)], PROVENANCE, layout)


def write_folder(
    folder: Path, layout: OutputLayout, shards: Sequence[Sequence[bytes]] | None = None
) -> Path:
    shards = [examples(layout, 5)] if shards is None else shards
    for number, records in enumerate(shards):
        name = f"embeddings-{number:05d}-of-{len(shards):05d}.tfrecord"
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for record in records:
                writer.write(record)
    (folder / "schema.pbtxt").write_text(embeddings_schema_text(layout))
    (folder / "_SUCCESS").touch()
    return folder


def test_everything_comes_back(tmp_path: Path) -> None:
    shards = [examples(ALL, 1500), examples(ALL, 3)]
    table = read_embeddings(write_folder(tmp_path, ALL, shards))

    numbers = [*range(1500), *range(3)]
    vectors = np.stack([embedding(n, ALL).vector for n in numbers])
    assert table.vectors.tobytes() == vectors[:, :WIDTH].tobytes()
    assert table.logits is not None
    assert table.logits.tobytes() == vectors[:, WIDTH:].tobytes()
    expected = np.argsort(-vectors[:, WIDTH:], axis=1)[:, :2]
    assert table.class_indices is not None
    assert table.class_indices.tolist() == expected.tolist()
    assert table.class_probabilities is not None
    probabilities = np.take_along_axis(softmax(vectors[:, WIDTH:]), expected, axis=1)
    assert table.class_probabilities.tobytes() == probabilities.astype(np.float32).tobytes()
    assert table.class_labels is not None
    assert table.class_labels.tolist() == [[LABELS[i] for i in row] for row in expected]


def test_tensorflow_parses_an_example_by_itself() -> None:
    [example] = examples(ALL)
    parsed = tf.io.parse_single_example(
        example,
        {
            "embedding": tf.io.FixedLenFeature([WIDTH], tf.float32),
            "logits": tf.io.FixedLenFeature([CLASSES], tf.float32),
            "classes/index": tf.io.FixedLenFeature([2], tf.int64),
            "classes/probability": tf.io.FixedLenFeature([2], tf.float32),
            "classes/label": tf.io.FixedLenFeature([2], tf.string),
        },
    )
    vector = embedding(0, ALL).vector
    assert parsed["embedding"].numpy().tolist() == vector[:WIDTH].tolist()
    assert parsed["logits"].numpy().tolist() == vector[WIDTH:].tolist()
    best = np.argsort(-vector[WIDTH:])[:2]
    assert parsed["classes/index"].numpy().tolist() == best.tolist()
    assert [label.decode() for label in parsed["classes/label"].numpy()] == [
        LABELS[index] for index in best
    ]


@pytest.mark.parametrize("layout", [ALL, EMBEDDING, LOGITS, TOP, LABELLED])
def test_an_example_holds_the_features_of_its_schema(layout: OutputLayout) -> None:
    [example] = examples(layout)
    features = tf.train.Example.FromString(example).features.feature
    # The generation is left out where no image has one.
    names = {feature.name for feature in embeddings_schema(layout).feature}
    assert set(features) == names - {"image/generation"}


def test_tfx_reads_the_shards_with_the_schema(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, ALL)
    schema = text_format.Parse((folder / "schema.pbtxt").read_text(), schema_pb2.Schema())
    records = tfxio.TFExampleRecord(str(folder / "embeddings-*"), schema=schema)
    options = tfxio.TensorFlowDatasetOptions(batch_size=5, shuffle=False, num_epochs=1)
    [batch] = records.TensorFlowDataset(options)
    assert batch["logits"].shape == (5, CLASSES)
    assert batch["classes/label"].shape == batch["classes/index"].shape == (5, 2)


@pytest.mark.parametrize("layout", [LOGITS, TOP, LABELLED])
@pytest.mark.parametrize("count", [0, 5])
def test_without_an_embedding_the_vectors_have_no_values(
    tmp_path: Path, layout: OutputLayout, count: int
) -> None:
    table = read_embeddings(write_folder(tmp_path, layout, [examples(layout, count)]))
    assert table.vectors.shape == (count, 0)
    assert table.vectors.dtype == np.float32
    for column, there, width in (
        (table.logits, layout.writes_logits, CLASSES),
        (table.class_indices, layout.top_classes, 2),
        (table.class_probabilities, layout.top_classes, 2),
        (table.class_labels, layout.labels, 2),
    ):
        assert (column is not None) == bool(there)
        assert column is None or column.shape == (count, width)


def test_an_embedding_alone_comes_without_the_other_columns(tmp_path: Path) -> None:
    table = read_embeddings(write_folder(tmp_path, EMBEDDING))
    assert table.vectors.shape == (5, WIDTH)
    others = (table.logits, table.class_indices, table.class_probabilities, table.class_labels)
    assert others == (None, None, None, None)


@pytest.mark.parametrize(
    ("layout", "other", "told"),
    [
        (EMBEDDING, ALL, "there are records with 'logits'"),
        (TOP, LABELLED, "there are records with 'classes/label'"),
        (ALL, EMBEDDING, "not every record has 3 values of the feature 'logits'"),
        (LOGITS, TOP, "there are records with 'classes/index'"),
        (LABELLED, TOP, "not every record has 2 values of the feature 'classes/label'"),
        (
            TOP,
            OutputLayout(0, CLASSES, top_classes=3),
            "not every record has 2 values of the feature 'classes/index'",
        ),
    ],
)
@pytest.mark.parametrize("same_shard", [True, False])
def test_rows_of_two_layouts_are_refused(
    tmp_path: Path, layout: OutputLayout, other: OutputLayout, told: str, same_shard: bool
) -> None:
    one, another = examples(layout), examples(other)
    folder = write_folder(tmp_path, layout, [one + another] if same_shard else [one, another])
    with pytest.raises(ValueError, match=told):
        read_embeddings(folder)


def test_vectors_that_the_layout_does_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="have 4 values, but the layout has 7"):
        encode_embeddings([embedding(1, EMBEDDING)], PROVENANCE, ALL)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"embedding_width": 0}, "no output is written"),
        ({"embedding_width": 0, "classes": 3}, "no output is written"),
        ({"embedding_width": 4, "writes_logits": True}, "there are none"),
        ({"embedding_width": 4, "classes": 3, "top_classes": 4}, "use 3 or less"),
        ({"embedding_width": 4, "classes": 3, "labels": LABELS}, "not asked for"),
        (
            {"embedding_width": 4, "classes": 2, "top_classes": 1, "labels": LABELS},
            "labels has 3 lines, but the model tells 2 classes apart",
        ),
    ],
)
def test_a_layout_that_cannot_be_is_refused(values: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        OutputLayout(**values)  # type: ignore[arg-type]


def in_order(example: bytes) -> bytes:
    ordered: bytes = tf.train.Example.FromString(example).SerializeToString(deterministic=True)
    assert len(ordered) == len(example)
    return ordered


def test_an_embedding_alone_is_written_as_in_version_1() -> None:
    """Byte for byte what lies in the golden folder, but for the order of the features.

    They are a protobuf map, which has no order.
    """
    shards = sorted(GOLDEN.glob("*.tfrecord"))
    written = [in_order(record) for path in shards for record in read_records(str(path))]
    table = read_embeddings(GOLDEN)
    assert table.provenance is not None
    rows = zip(table.uris, table.sha256, table.formats, table.heights, table.widths, strict=True)
    embeddings = [
        Embedding(ImageInfo(*row[:3], *map(int, row[3:])), vector, 1.0)
        for row, vector in zip(rows, table.vectors, strict=True)
    ]
    assert len(written) == 3
    for layout in (None, EMBEDDING):
        again = encode_embeddings(embeddings, table.provenance, layout)
        assert [in_order(example) for example in again] == written
    # Version 2 has more features behind those of version 1.
    assert embeddings_schema_text(EMBEDDING).startswith((GOLDEN / "schema.pbtxt").read_text())
