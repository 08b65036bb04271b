"""The ledger through Beam: what WriteManifest writes, ReadLedger reads."""

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to, is_empty
from components import require
from incremental_folders import embedding, entries, put_run, run_id
from storage_emulator import storage_emulator

from transforms.folders.output_contents import manifest_shards, output_files
from transforms.ledgers.ledger import MANIFEST_SCHEMA
from transforms.read_ledger import ReadLedger
from transforms.records import LedgerEntry
from transforms.write_manifest import WriteManifest

LINES = entries(1, [embedding(f"/{number}", number, number + 0.5) for number in range(500)])


def write(folder, lines, **options):
    with TestPipeline(runner="FnApiRunner") as pipeline:
        created = pipeline | beam.Create(lines).with_output_types(LedgerEntry)
        _ = created | WriteManifest(str(folder), **options)
    return tuple(manifest_shards(str(folder)))


@pytest.mark.parametrize("shards", [0, 3])
def test_what_is_written_is_read(tmp_path, shards):
    files = write(tmp_path, LINES, shards=shards)
    assert len(files) == (shards or 1)
    assert output_files(str(tmp_path)) == list(files)
    assert {path.name for path in tmp_path.iterdir()} == {f.rpartition("/")[2] for f in files}
    with TestPipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | ReadLedger(files), equal_to(LINES))


def test_an_empty_ledger_can_be_read(tmp_path):
    (path,) = write(tmp_path, [])
    assert pq.read_table(path).schema.equals(MANIFEST_SCHEMA)
    with TestPipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | ReadLedger((path,)), is_empty())


def test_without_files_the_ledger_is_empty():
    with TestPipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | ReadLedger(()), is_empty())


def test_the_row_groups_of_several_files_are_all_read(tmp_path):
    lines = [*LINES, *entries(2, [embedding("/x", 1, 1)])]
    put_run(tmp_path, 1, [], LINES)
    put_run(tmp_path, 2, [], lines[500:])
    files = [
        str(tmp_path / "runs" / run_id(number) / "manifest-00000-of-00001.parquet")
        for number in (1, 2)
    ]
    pq.write_table(pq.read_table(files[0]), files[0], row_group_size=70)
    with TestPipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | ReadLedger(tuple(files)), equal_to(lines))


def test_lines_of_runs_that_are_gone_are_left_out(tmp_path):
    gone = entries(2, [embedding("/x", 1, 1)])
    files = write(tmp_path, LINES + gone)
    with TestPipeline(runner="FnApiRunner") as pipeline:
        read = pipeline | ReadLedger(files, frozenset([run_id(1), run_id(3)]))
        assert_that(read, equal_to(LINES))


def test_a_damaged_manifest_fails_the_job(tmp_path):
    (path,) = write(tmp_path, LINES)
    with open(path, "r+b") as file:
        file.truncate(300)
    pipeline = TestPipeline(runner="FnApiRunner")
    _ = pipeline | ReadLedger((path,))
    with pytest.raises(Exception, match=f"cannot read the manifest {path}"):
        pipeline.run()


def test_a_ledger_in_a_bucket():
    require("gcp_storage_emulator", "pip install 'embed-images[dev]'")
    with storage_emulator() as bucket:
        files = write(f"{bucket}/out/runs/{run_id(1)}", LINES, shards=2)
        assert [path.rpartition("/")[2] for path in files] == [
            "manifest-00000-of-00002.parquet",
            "manifest-00001-of-00002.parquet",
        ]
        with TestPipeline(runner="FnApiRunner") as pipeline:
            assert_that(pipeline | ReadLedger(files), equal_to(LINES))
