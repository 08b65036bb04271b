"""The format of the outputs: what is written is what is read, by us, by TensorFlow, by TFX."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rows
import tensorflow as tf
from google.protobuf import text_format
from rows import ALL, CARRIED, COLUMNS, assert_holds, with_everything
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.public import tfxio

from transforms.errors import InvalidColumn
from transforms.formats import embedding_table
from transforms.formats.embedding_table import Provenance
from transforms.formats.tf_example import (
    embeddings_schema,
    embeddings_schema_text,
    encode_embeddings,
)
from transforms.records import CarriedColumn, Embedding, ImageInfo, OutputLayout
from transforms.search.read_embeddings import read_embeddings

WIDTH = 5
PROVENANCE = Provenance("/models/größe/4", "0123456789abcdef", "fedcba9876543210")
GOLDEN = Path(__file__).parents[2] / "golden" / "embeddings"


def embedding(number: int, vector: Sequence[float] | None = None) -> Embedding:
    if vector is None:
        vector = np.random.default_rng(number).standard_normal(WIDTH)
    info = ImageInfo(f"/фото/写真 {number}.jpg", f"{number:064x}", "JPEG", number, number + 70_000)
    return Embedding(info, np.array(vector, np.float32), batch_slots=1.0)


def write_folder(folder: Path, shards: Sequence[Sequence[bytes]], suffix: str = "") -> Path:
    """An output folder written with TensorFlow's own writer."""
    folder.mkdir(exist_ok=True)
    for number, examples in enumerate(shards):
        name = f"embeddings-{number:05d}-of-{len(shards):05d}.tfrecord{suffix}"
        compression = "GZIP" if suffix else None
        with tf.io.TFRecordWriter(str(folder / name), compression) as writer:
            for example in examples:
                writer.write(example)
    (folder / "schema.pbtxt").write_text(embeddings_schema_text(OutputLayout(WIDTH)))
    (folder / "_SUCCESS").touch()
    return folder


def bits(vectors: np.ndarray) -> bytes:
    assert vectors.dtype == np.float32
    return vectors.tobytes()


@pytest.mark.parametrize("block_bytes", [embedding_table._BLOCK_BYTES, 1024 * WIDTH * 4])
def test_every_field_comes_back_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(embedding_table, "_BLOCK_BYTES", block_bytes)
    awkward = [-0.0, 1e-45, np.finfo(np.float32).max, np.finfo(np.float32).tiny, 0.1]
    embeddings = [embedding(0, awkward), *(embedding(n) for n in range(1, 2500))]
    examples = encode_embeddings(embeddings, PROVENANCE)

    table = read_embeddings(write_folder(tmp_path, [examples[:2000], examples[2000:]]))

    infos = [one.info for one in embeddings]
    assert len(table) == 2500
    assert table.uris == [info.uri for info in infos]
    assert table.sha256 == [info.sha256 for info in infos]
    assert table.formats == ["JPEG"] * 2500
    assert table.heights.tolist() == [info.height for info in infos]
    assert table.widths.tolist() == [info.width for info in infos]
    assert table.vectors.shape == (2500, WIDTH)
    assert bits(table.vectors) == bits(np.stack([one.vector for one in embeddings]))
    assert table.provenance == PROVENANCE


def test_tensorflow_parses_an_example_by_itself() -> None:
    [example] = encode_embeddings([embedding(7)], PROVENANCE)
    text, number = tf.io.FixedLenFeature([], tf.string), tf.io.FixedLenFeature([], tf.int64)
    parsed = tf.io.parse_single_example(
        example,
        {
            "image/uri": text,
            "image/sha256": text,
            "image/format": text,
            "image/height": number,
            "image/width": number,
            "embedding": tf.io.FixedLenFeature([WIDTH], tf.float32),
            "model/handle": text,
            "model/fingerprint": text,
            "model/precision": text,
            "preprocess/fingerprint": text,
        },
    )
    assert parsed.pop("embedding").numpy().tobytes() == embedding(7).vector.tobytes()
    assert {name: value.numpy() for name, value in parsed.items()} == {
        "image/uri": "/фото/写真 7.jpg".encode(),
        "image/sha256": b"%064x" % 7,
        "image/format": b"JPEG",
        "image/height": 7,
        "image/width": 70_007,
        "model/handle": "/models/größe/4".encode(),
        "model/fingerprint": b"0123456789abcdef",
        "model/precision": b"float32",
        "preprocess/fingerprint": b"fedcba9876543210",
    }


def test_an_example_holds_no_feature_besides_those_of_the_schema() -> None:
    [example] = encode_embeddings([embedding(7)], PROVENANCE)
    features = tf.train.Example.FromString(example).features.feature
    # The generation is left out where no image has one.
    assert set(features) == {
        feature.name for feature in embeddings_schema(OutputLayout(WIDTH)).feature
    } - {"image/generation"}


def test_tfx_reads_the_shards_with_the_schema(tmp_path: Path) -> None:
    examples = encode_embeddings([embedding(n) for n in range(10)], PROVENANCE)
    folder = write_folder(tmp_path, [examples[:4], examples[4:]])
    schema = text_format.Parse((folder / "schema.pbtxt").read_text(), schema_pb2.Schema())

    records = tfxio.TFExampleRecord(str(folder / "embeddings-*"), schema=schema)
    options = tfxio.TensorFlowDatasetOptions(batch_size=10, shuffle=False, num_epochs=1)
    [batch] = records.TensorFlowDataset(options)

    assert batch["embedding"].shape == (10, WIDTH)
    assert batch["image/height"].shape == (10,)
    by_height = dict(zip(batch["image/height"].numpy(), batch["embedding"].numpy(), strict=True))
    for number in range(10):
        assert by_height[number].tobytes() == embedding(number).vector.tobytes()


def test_the_schema_text_is_the_schema() -> None:
    schema = text_format.Parse(embeddings_schema_text(OutputLayout(1536)), schema_pb2.Schema())
    assert schema == embeddings_schema(OutputLayout(1536))
    [width] = [f.shape.dim[0].size for f in schema.feature if f.name == "embedding"]
    assert width == 1536


def test_no_embeddings_are_no_examples() -> None:
    assert encode_embeddings([], PROVENANCE) == []


def test_vectors_of_two_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        encode_embeddings([embedding(1), embedding(2, [1.0, 2.0])], PROVENANCE)


def test_vectors_that_would_lose_bits_are_refused() -> None:
    wrong = Embedding(embedding(1).info, np.ones(WIDTH, np.float64), batch_slots=1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="float64"):
        encode_embeddings([embedding(1), wrong], PROVENANCE)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_empty_shards_give_a_table_without_rows(tmp_path: Path, suffix: str) -> None:
    table = read_embeddings(write_folder(tmp_path, [[], []], suffix))
    assert table.vectors.shape == (0, WIDTH)
    assert table.vectors.dtype == np.float32
    assert len(table) == 0
    assert table.uris == []
    assert table.provenance is None


def test_an_output_that_is_not_complete_is_read_only_on_request(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [encode_embeddings([embedding(1)], PROVENANCE), [], []])
    (folder / "_SUCCESS").unlink()
    (folder / "embeddings-00001-of-00003.tfrecord").unlink()
    with pytest.raises(FileNotFoundError, match="no complete output"):
        read_embeddings(folder)
    assert read_embeddings(folder, allow_incomplete=True).uris == ["/фото/写真 1.jpg"]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Provenance(PROVENANCE.model_handle, "other", "fedcba9876543210"), "0123456789abcdef"),
        (Provenance(PROVENANCE.model_handle, "0123456789abcdef", "other"), "fedcba9876543210"),
    ],
)
@pytest.mark.parametrize("same_shard", [True, False])
def test_rows_of_two_models_or_preprocessings_are_refused(
    tmp_path: Path, other: Provenance, named: str, same_shard: bool
) -> None:
    one, another = (encode_embeddings([embedding(1)], made_by) for made_by in (PROVENANCE, other))
    folder = write_folder(tmp_path, [one + another, []] if same_shard else [one, another])
    with pytest.raises(ValueError, match=f"'{named}' and 'other'"):
        read_embeddings(folder)


def damaged(content: bytes, how: str) -> bytes:
    middle = len(content) // 2
    return {
        "one byte changed": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "length changed": b"\xff" + content[1:],
        "cut in a record": content[:middle],
        "cut in a header": content[:5],
        "cut before the last checksum": content[:-2],
        "something else": b"<html>no such bucket</html>",
        "something after the end": content + b"x",
    }[how]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    "how",
    [
        "one byte changed",
        "length changed",
        "cut in a record",
        "cut in a header",
        "cut before the last checksum",
        "something else",
        "something after the end",
    ],
)
def test_a_damaged_shard_is_named(tmp_path: Path, suffix: str, how: str) -> None:
    examples = encode_embeddings([embedding(n) for n in range(5)], PROVENANCE)
    folder = write_folder(tmp_path, [examples, examples], suffix)
    shard = folder / f"embeddings-00001-of-00002.tfrecord{suffix}"
    shard.write_bytes(damaged(shard.read_bytes(), how))
    with pytest.raises(ValueError, match=f"cannot read .*{shard.name}: "):
        read_embeddings(folder)


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([b"no example"], "parse"),
        ([tf.train.Example().SerializeToString()], "'embedding'"),
        (encode_embeddings([embedding(1, [1.0] * (WIDTH + 1))], PROVENANCE), f"{WIDTH} values"),
    ],
)
def test_records_of_another_kind_are_refused(
    tmp_path: Path, records: list[bytes], why: str
) -> None:
    with pytest.raises(ValueError, match=f"embeddings-00000-of-00001.tfrecord: .*{why}"):
        read_embeddings(write_folder(tmp_path, [records]))


@pytest.mark.parametrize("content", ["feature {", 'feature { name: "embedding" }', ""])
def test_a_schema_that_is_none_of_ours_is_named(tmp_path: Path, content: str) -> None:
    folder = write_folder(tmp_path, [[]])
    (folder / "schema.pbtxt").write_text(content)
    with pytest.raises(ValueError, match=r"cannot read .*schema\.pbtxt"):
        read_embeddings(folder)


def test_an_output_of_version_1_loads() -> None:
    table = read_embeddings(GOLDEN)
    rows = sorted(
        zip(
            table.uris,
            table.sha256,
            table.formats,
            table.heights.tolist(),
            table.widths.tolist(),
            [bits(vector) for vector in table.vectors],
            strict=True,
        )
    )
    vectors = [
        bits(np.array(vector, np.float32))
        for vector in (
            [0.1, -0.0, 1e-45, 3.4028235e38],
            [1.0, 2.0, 3.0, 4.0],
            [-1.0, 0.5, 0.25, -0.125],
        )
    ]
    assert rows == [
        ("/photos/первый снимок.jpg", "a" * 64, "JPEG", 480, 640, vectors[0]),
        ("gs://bucket/photos/2.png", "b" * 64, "PNG", 1, 65535, vectors[1]),
        ("gs://bucket/photos/3.webp", "c" * 64, "WEBP", 300, 200, vectors[2]),
    ]
    assert table.provenance == Provenance(
        "https://example.com/model/4", "0123456789abcdef", "fedcba9876543210", "float32"
    )


def write_carried(folder: Path, embeddings: Sequence[Embedding]) -> Path:
    folder = write_folder(folder, [encode_embeddings(embeddings, rows.PROVENANCE, ALL, COLUMNS)])
    (folder / "schema.pbtxt").write_text(embeddings_schema_text(ALL, COLUMNS))
    return folder


def test_generations_and_carried_columns_come_back(tmp_path: Path) -> None:
    embeddings = with_everything(2500)
    table = read_embeddings(write_carried(tmp_path, embeddings))
    assert_holds(table, embeddings, ALL)
    carried = [CARRIED[n % 4] or (None,) * 4 for n in range(2500)]
    assert table.carried == {
        column.name: [row[place] for row in carried] for place, column in enumerate(COLUMNS)
    }
    assert type(table.carried["sold"][0]) is bool


def test_a_folder_without_rows_has_the_carried_columns(tmp_path: Path) -> None:
    table = read_embeddings(write_carried(tmp_path, []))
    assert table.carried == {"label": [], "price": [], "stock": [], "sold": []}
    assert table.generations == []


def test_a_float64_is_rounded_to_float32(tmp_path: Path) -> None:
    one = rows.embedding(1, ALL, (None, 0.1, None, None))
    table = read_embeddings(write_carried(tmp_path, [one]))
    assert table.carried["price"] == [float(np.float32(0.1))]


def test_tensorflow_parses_carried_columns_by_itself() -> None:
    examples = encode_embeddings(with_everything(), rows.PROVENANCE, ALL, COLUMNS)
    parsed = tf.io.parse_example(
        examples,
        {
            "image/generation": tf.io.FixedLenFeature([], tf.string, default_value="unknown"),
            "carried/label": tf.io.FixedLenFeature([], tf.string, default_value="none"),
            "carried/price": tf.io.FixedLenFeature([], tf.float32, default_value=-1),
            "carried/stock": tf.io.VarLenFeature(tf.int64),
            "carried/sold": tf.io.FixedLenFeature([], tf.int64, default_value=-1),
        },
    )
    assert parsed["image/generation"].numpy().tolist() == [
        *(b"unknown", b"1700000000000001", b"1700000000000002", b"unknown")
    ]
    assert parsed["carried/label"].numpy().tolist() == ["кошка".encode(), b"", b"none", b"none"]
    assert parsed["carried/price"].numpy().tolist() == [1.5, 0, -1, -1]
    assert parsed["carried/stock"].values.numpy().tolist() == [2**63 - 1, -(2**63)]
    assert parsed["carried/sold"].numpy().tolist() == [1, 0, -1, -1]


def test_tfx_reads_carried_columns_with_the_schema(tmp_path: Path) -> None:
    folder = write_carried(tmp_path, with_everything())
    schema = text_format.Parse((folder / "schema.pbtxt").read_text(), schema_pb2.Schema())
    records = tfxio.TFExampleRecord(str(folder / "embeddings-*"), schema=schema)
    options = tfxio.TensorFlowDatasetOptions(batch_size=4, shuffle=False, num_epochs=1)
    [batch] = records.TensorFlowDataset(options)
    assert batch["embedding"].shape == (4, WIDTH)
    assert batch["carried/stock"].values.numpy().tolist() == [2**63 - 1, -(2**63)]
    assert batch["image/generation"].values.shape == (2,)


def test_the_schema_tells_which_features_may_be_without_a_value() -> None:
    schema = embeddings_schema(ALL, COLUMNS)
    optional = {f.name: f for f in schema.feature if not f.presence.min_fraction}
    assert {name: feature.type for name, feature in optional.items()} == {
        "image/generation": schema_pb2.BYTES,
        "carried/label": schema_pb2.BYTES,
        "carried/price": schema_pb2.FLOAT,
        "carried/stock": schema_pb2.INT,
        "carried/sold": schema_pb2.INT,
    }
    assert {feature.value_count.max for feature in optional.values()} == {1}


def test_a_value_that_does_not_fit_its_column_names_its_image() -> None:
    bad = rows.embedding(3, carried=(1.5,))
    with pytest.raises(InvalidColumn, match=r"写真 3.jpg has 1.5 in the carried column 'stock'"):
        encode_embeddings([bad], rows.PROVENANCE, None, [CarriedColumn("stock", "int64")])


def test_several_values_in_a_carried_column_are_refused(tmp_path: Path) -> None:
    folder = write_carried(tmp_path, [])
    example = tf.train.Example.FromString(
        encode_embeddings(with_everything(1), rows.PROVENANCE, ALL, COLUMNS)[0]
    )
    example.features.feature["carried/stock"].int64_list.value.append(1)
    with tf.io.TFRecordWriter(str(folder / "embeddings-00000-of-00001.tfrecord")) as writer:
        writer.write(example.SerializeToString())
    with pytest.raises(ValueError, match="several values of the feature 'carried/stock'"):
        read_embeddings(folder)
