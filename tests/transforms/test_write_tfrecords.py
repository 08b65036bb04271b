"""WriteTFRecords: the files it leaves, their names, and what the reader makes of them."""

from pathlib import Path

import numpy as np
import pytest
from apache_beam import Create
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to

from transforms.folders.output_folder import (
    Compression,
    is_complete,
    prepare_output,
    schema_path,
    success_path,
    write_text,
)
from transforms.formats.embedding_table import EmbeddingTable, Provenance
from transforms.formats.tf_example import embeddings_schema_text
from transforms.records import Embedding, ImageInfo, OutputLayout
from transforms.search.read_embeddings import read_embeddings
from transforms.write_tfrecords import WriteTFRecords

WIDTH = 8
PROVENANCE = Provenance("tiny", "0123456789abcdef", "fedcba9876543210")


def embedding(number: int) -> Embedding:
    info = ImageInfo(f"/photos/снимок {number}.jpg", f"{number:064x}", "JPEG", 480, 640)
    vector = np.random.default_rng(number).standard_normal(WIDTH).astype(np.float32)
    return Embedding(info, vector, batch_slots=1.0)


def write(
    folder: Path,
    count: int,
    shards: int = 0,
    compression: Compression = "none",
    names: list[str] | None = None,
) -> None:
    """Write so many embeddings; check that the step gives these names of files."""
    with TestPipeline(runner="FnApiRunner") as pipeline:
        files = (
            pipeline
            | Create([embedding(number) for number in range(count)])
            | WriteTFRecords(str(folder), PROVENANCE, shards, compression)
        )
        if names is not None:
            assert_that(files, equal_to([str(folder / name) for name in names]))


def complete(folder: Path) -> EmbeddingTable:
    write_text(schema_path(str(folder)), embeddings_schema_text(OutputLayout(WIDTH)))
    write_text(success_path(str(folder)), "")
    return read_embeddings(folder)


def assert_holds(table: EmbeddingTable, count: int) -> None:
    """Each of the first so many embeddings once, bit for bit, in any order."""
    expected = {embedding(n).info.uri: embedding(n).vector.tobytes() for n in range(count)}
    assert len(table) == count
    found = zip(table.uris, [vector.tobytes() for vector in table.vectors], strict=True)
    assert dict(found) == expected


@pytest.mark.parametrize(("compression", "suffix"), [("none", ""), ("gzip", ".gz")])
def test_three_shards_are_three_files_that_hold_every_embedding_once(
    tmp_path: Path, compression: Compression, suffix: str
) -> None:
    names = [f"embeddings-0000{n}-of-00003.tfrecord{suffix}" for n in range(3)]
    write(tmp_path, 600, shards=3, compression=compression, names=names)

    assert sorted(path.name for path in tmp_path.iterdir()) == names
    gzipped = [path.read_bytes()[:2] == b"\x1f\x8b" for path in tmp_path.iterdir()]
    assert gzipped == [compression == "gzip"] * 3
    assert_holds(complete(tmp_path), 600)


def test_the_runner_may_choose_the_number_of_files(tmp_path: Path) -> None:
    write(tmp_path, 300)
    assert_holds(complete(tmp_path), 300)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("shards", [0, 3])
def test_without_embeddings_the_files_are_there_and_empty(
    tmp_path: Path, compression: Compression, shards: int
) -> None:
    write(tmp_path, 0, shards, compression)
    assert len(list(tmp_path.iterdir())) == max(shards, 1)
    table = complete(tmp_path)
    assert table.vectors.shape == (0, WIDTH)


def test_fewer_embeddings_than_shards_still_give_every_shard(tmp_path: Path) -> None:
    write(tmp_path, 2, shards=5, names=[f"embeddings-0000{n}-of-00005.tfrecord" for n in range(5)])
    assert_holds(complete(tmp_path), 2)


def test_after_a_kill_another_number_of_shards_gives_every_row_once(tmp_path: Path) -> None:
    """What a kill between two renames leaves: some shards in place, some in Beam's folder."""
    folder = tmp_path / "out"
    prepare_output(str(folder), overwrite=False)
    write_text(schema_path(str(folder)), embeddings_schema_text(OutputLayout(WIDTH)))
    write(folder, 100, shards=4)
    temporary = folder / f"beam-temp-embeddings-{'0123456789abcdef' * 2}"
    temporary.mkdir()
    last = folder / "embeddings-00003-of-00004.tfrecord"
    last.rename(temporary / "1b4e28ba-2fa1.embeddings.tfrecord")
    (folder / "notes.txt").write_text("mine")
    assert not is_complete(str(folder))

    prepare_output(str(folder), overwrite=False)
    write(folder, 100, shards=3)

    assert_holds(complete(folder), 100)
    assert sorted(path.name for path in folder.iterdir()) == [
        "_SUCCESS",
        *(f"embeddings-0000{n}-of-00003.tfrecord" for n in range(3)),
        "notes.txt",
        "schema.pbtxt",
    ]


def test_without_the_cleaning_the_leftovers_of_a_kill_would_be_noticed(tmp_path: Path) -> None:
    write(tmp_path, 100, shards=4)
    write(tmp_path, 100, shards=3)
    with pytest.raises(ValueError, match="more than one run"):
        complete(tmp_path)


def test_settings_that_make_no_sense_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="shards is -1"):
        WriteTFRecords("out", PROVENANCE, shards=-1)
    with pytest.raises(ValueError, match=r"compression is 'zip'; use one of none, gzip"):
        WriteTFRecords("out", PROVENANCE, compression="zip")  # type: ignore[arg-type]
