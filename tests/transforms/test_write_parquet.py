"""WriteParquet: the files it leaves, their names, and what the reader makes of them."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from apache_beam import Create
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from components import require
from rows import ALL, COLUMNS, embedding, stamp, with_everything
from storage_emulator import storage_emulator

from transforms.errors import InvalidColumn
from transforms.formats.embedding_table import EmbeddingTable
from transforms.formats.parquet_file import read_parquet_shards
from transforms.write_parquet import WriteParquet

require("gcp_storage_emulator", "pip install 'embed-images[dev]'")


def write(folder: Path, count: int, shards: int = 0, names: list[str] | None = None) -> None:
    """Write so many embeddings; check that the step gives these names of files."""
    with TestPipeline(runner="FnApiRunner") as pipeline:
        files = (
            pipeline
            | Create(with_everything(count))
            | WriteParquet(str(folder), stamp(ALL, COLUMNS), shards)
        )
        if names is not None:
            assert_that(files, equal_to([str(folder / name) for name in names]))


def read(folder: Path) -> EmbeddingTable:
    return read_parquet_shards([str(path) for path in sorted(folder.glob("*.parquet"))])


def assert_everything(table: EmbeddingTable, count: int) -> None:
    """Each of the first so many embeddings once, bit for bit, in any order."""
    expected = {one.info.uri: one.vector[: ALL.embedding_width] for one in with_everything(count)}
    found = dict(zip(table.uris, table.vectors, strict=True))
    assert len(table) == len(found) == count
    assert {uri: vector.tobytes() for uri, vector in found.items()} == {
        uri: vector.tobytes() for uri, vector in expected.items()
    }
    stock = dict(zip(table.uris, table.carried["stock"], strict=True))
    for one in with_everything(count):
        carried = one.info.origin.carried
        assert stock[one.info.uri] == (carried[2] if carried else None)


def test_three_shards_are_three_files_that_hold_every_embedding_once(tmp_path: Path) -> None:
    names = [f"embeddings-0000{n}-of-00003.parquet" for n in range(3)]
    write(tmp_path, 900, shards=3, names=names)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert_everything(read(tmp_path), 900)


def test_the_runner_may_choose_the_number_of_files(tmp_path: Path) -> None:
    write(tmp_path, 300)
    assert_everything(read(tmp_path), 300)


@pytest.mark.parametrize("shards", [0, 3])
def test_without_embeddings_the_files_are_there_and_have_no_rows(
    tmp_path: Path, shards: int
) -> None:
    write(tmp_path, 0, shards)
    files = list(tmp_path.iterdir())
    assert len(files) == max(shards, 1)
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in files) == 0
    assert read(tmp_path).vectors.shape == (0, ALL.embedding_width)


def test_a_value_of_another_kind_fails_the_job(tmp_path: Path) -> None:
    bad = embedding(7, carried=("x", 1.5, "many", True))
    with pytest.raises(InvalidColumn, match=r"7.jpg has 'many'"), TestPipeline() as pipeline:
        _ = pipeline | Create([bad]) | WriteParquet(str(tmp_path), stamp(columns=COLUMNS))
    assert not list(tmp_path.glob("*.parquet"))


def test_a_number_of_shards_that_makes_no_sense_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="shards is -1"):
        WriteParquet("out", stamp(), shards=-1)


def test_a_bucket_holds_the_same_files() -> None:
    with storage_emulator() as bucket:
        names = [f"embeddings-0000{n}-of-00002.parquet" for n in range(2)]
        with TestPipeline(runner="FnApiRunner") as pipeline:
            files = (
                pipeline
                | Create(with_everything(600))
                | WriteParquet(f"{bucket}/out", stamp(ALL, COLUMNS), shards=2)
            )
            assert_that(files, equal_to([f"{bucket}/out/{name}" for name in names]))
        table = read_parquet_shards([f"{bucket}/out/{name}" for name in names])
        assert_everything(table, 600)
