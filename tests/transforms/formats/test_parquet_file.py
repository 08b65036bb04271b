"""Parquet files of embeddings: what is written is what is read, by us and by others."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rows import (
    ALL,
    CARRIED,
    COLUMNS,
    EMBEDDING,
    LOGITS,
    PROVENANCE,
    TOP,
    WIDTH,
    assert_holds,
    embedding,
    stamp,
    with_everything,
)

from transforms.formats import embedding_table, parquet_file
from transforms.formats.embedding_rows import RowStamp, embedding_rows, rows_schema
from transforms.formats.embedding_table import Provenance
from transforms.formats.parquet_file import RowGroupWriter, read_parquet_shards
from transforms.records import CarriedColumn, Embedding, OutputLayout


def write(path: Path, rows: Sequence[pa.Table], schema: pa.Schema | None = None) -> str:
    with path.open("wb") as file:
        writer = RowGroupWriter(file, rows[0].schema if schema is None else schema)
        for table in rows:
            writer.write(table)
        writer.close()
    return str(path)


def write_shard(path: Path, embeddings: Sequence[Embedding], shared: RowStamp | None = None) -> str:
    return write(path, [embedding_rows(embeddings, shared or stamp(), vectors="float32")])


@pytest.mark.parametrize("block_bytes", [embedding_table._BLOCK_BYTES, 1024 * WIDTH * 4])
@pytest.mark.parametrize("group_bytes", [parquet_file._ROW_GROUP_BYTES, 100_000])
def test_everything_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, group_bytes: int
) -> None:
    monkeypatch.setattr(embedding_table, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(parquet_file, "_ROW_GROUP_BYTES", group_bytes)
    embeddings = with_everything(2500)
    batches = [embeddings[start : start + 250] for start in range(0, 2500, 250)]
    rows = [embedding_rows(batch, stamp(ALL, COLUMNS), vectors="float32") for batch in batches]
    paths = [write(tmp_path / "1.parquet", rows[:7]), write(tmp_path / "2.parquet", rows[7:])]

    groups = [pq.ParquetFile(path).num_row_groups for path in paths]
    assert groups == ([1, 1] if group_bytes > 100_000 else [4, 2])
    table = read_parquet_shards(paths)
    assert_holds(table, embeddings, ALL)
    carried = [CARRIED[n % 4] or (None,) * 4 for n in range(2500)]
    assert table.carried == {
        column.name: [row[place] for row in carried] for place, column in enumerate(COLUMNS)
    }
    assert list(table.carried) == [column.name for column in COLUMNS]


@pytest.mark.parametrize("layout", [EMBEDDING, LOGITS, TOP])
def test_what_was_not_asked_for_is_none(tmp_path: Path, layout: OutputLayout) -> None:
    embeddings = [embedding(n, layout) for n in range(5)]
    table = read_parquet_shards([write_shard(tmp_path / "1", embeddings, stamp(layout))])
    assert_holds(table, embeddings, layout)
    assert table.vectors.shape == (5, layout.embedding_width)
    assert table.carried == {}


def test_shards_without_rows_give_the_columns_all_the_same(tmp_path: Path) -> None:
    schema = rows_schema(ALL, COLUMNS, vectors="float32")
    paths = [write(tmp_path / name, [], schema) for name in ("1", "2")]
    table = read_parquet_shards(paths)
    assert len(table) == 0
    assert table.vectors.shape == (0, WIDTH)
    assert table.logits is not None
    assert table.logits.shape == (0, 3)
    assert table.carried == {column.name: [] for column in COLUMNS}
    assert table.provenance is None

    full = write_shard(tmp_path / "3", with_everything(), stamp(ALL, COLUMNS))
    assert len(read_parquet_shards([*paths, full])) == 4


def test_other_libraries_read_the_file(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "1.parquet", with_everything(), stamp(ALL, COLUMNS))
    vectors = np.stack([one.vector[:WIDTH] for one in with_everything()])

    rows = pq.read_table(path)
    assert rows.schema.field("embedding").type == pa.list_(pa.float32(), WIDTH)
    floats = rows["embedding"].combine_chunks().flatten().to_numpy()
    assert floats.reshape(-1, WIDTH).tobytes() == vectors.tobytes()

    frame = pd.read_parquet(path)
    assert np.stack(frame["embedding"]).tobytes() == vectors.tobytes()
    assert frame["embedded_at"].dt.tz is not None
    assert frame["label"].tolist()[:2] == ["кошка", ""]


def test_the_pages_are_compressed_with_zstd_and_floats_have_no_dictionary(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "1.parquet", with_everything(), stamp(ALL, COLUMNS))
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}
    coded = {name for name, chunk in chunks.items() if chunk.has_dictionary_page}
    assert coded == set(parquet_file._WITH_DICTIONARY)
    # The name that the Parquet standard gives the values of a list, and that BigQuery wants.
    assert {"embedding.list.element", "logits.list.element"} < set(chunks)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Provenance(PROVENANCE.model_handle, "other", "fedcba9876543210"), "model_fingerprint"),
        (Provenance(PROVENANCE.model_handle, "0123456789abcdef", "other"), "preprocess_finger"),
        (Provenance(*("/models/größe/4", "0123456789abcdef", "fedcba9876543210", "other")), "prec"),
    ],
)
@pytest.mark.parametrize("same_shard", [True, False])
def test_rows_of_two_models_or_preprocessings_are_refused(
    tmp_path: Path, other: Provenance, named: str, same_shard: bool
) -> None:
    one, another = (
        embedding_rows([embedding(1)], RowStamp(made_by, "run", EMBEDDING), vectors="float32")
        for made_by in (PROVENANCE, other)
    )
    if same_shard:
        paths = [write(tmp_path / "1", [one, another])]
    else:
        paths = [write(tmp_path / "1", [one]), write(tmp_path / "2", [another])]
    with pytest.raises(ValueError, match=f"cannot read .*{named}.* and 'other'"):
        read_parquet_shards(paths)


@pytest.mark.parametrize(
    "other",
    [stamp(OutputLayout(WIDTH, 3, top_classes=1)), stamp(columns=(CarriedColumn("label"),))],
)
def test_shards_with_other_outputs_or_columns_are_refused(tmp_path: Path, other: RowStamp) -> None:
    paths = [
        write_shard(tmp_path / "1", [embedding(1)]),
        write_shard(tmp_path / "2", [embedding(1, other.layout)], other),
    ]
    with pytest.raises(ValueError, match=r"cannot read .*/2: it holds other outputs or carried"):
        read_parquet_shards(paths)


def test_a_missing_shard_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_parquet_shards([str(tmp_path / "gone.parquet")])


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "other.parquet")
    pq.write_table(pa.table({"uri": ["/1.jpg"]}), path)
    with pytest.raises(ValueError, match=r"other\.parquet: it was not written by this project"):
        read_parquet_shards([path])


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("uri", ["/1.jpg", None], "nulls in the column 'uri'"),
        ("embedding", [[1.0] * WIDTH, None], "list"),
        ("embedding", [[1.0] * WIDTH, [None] * WIDTH], "nulls in the lists of .* 'embedding'"),
        ("model", None, "model"),
    ],
)
def test_rows_that_lack_something_are_refused(tmp_path: Path, name: str, values, told: str) -> None:
    rows = embedding_rows([embedding(1), embedding(2)], stamp(), vectors="float32")
    place = rows.column_names.index(name)
    field = rows.schema.field(name)
    rows = rows.remove_column(place)
    if values is not None:
        rows = rows.add_column(place, field, pa.array(values, field.type))
    with pytest.raises(ValueError, match=f"cannot read .*: .*{told}"):
        read_parquet_shards([write(tmp_path / "1", [rows])])


def test_damage_is_noticed_and_named(tmp_path: Path) -> None:
    """One byte changed at two hundred places, and a file cut at as many."""
    path = tmp_path / "1.parquet"
    embeddings = [embedding(n, OutputLayout(256)) for n in range(100)]
    write_shard(path, embeddings, stamp(OutputLayout(256)))
    content = path.read_bytes()
    whole = read_parquet_shards([str(path)])
    noticed = 0
    for place in range(4, len(content), len(content) // 200):
        changed = content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]
        path.write_bytes(changed)
        try:
            table = read_parquet_shards([str(path)])
        except ValueError as error:
            noticed += 1
            assert str(path) in str(error)  # noqa: PT017
        else:
            # Not all of the last kilobytes is read, such as the statistics.
            assert table.vectors.tobytes() == whole.vectors.tobytes()
            assert table.uris == whole.uris
        path.write_bytes(content[:place])
        with pytest.raises(ValueError, match=r"cannot read .*1\.parquet"):
            read_parquet_shards([str(path)])
    assert noticed > 150
