"""The lines of the ledger, and which of them count."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from incremental_folders import embedding, made_by

from transforms.ledgers.ledger import (
    MANIFEST_SCHEMA,
    entries_from_arrow,
    entries_to_arrow,
    ledger_entry,
    live_entries,
    live_rows,
    open_manifest,
)
from transforms.records import LedgerEntry


def line(uri="/a.jpg", *, run="1", at=1.0, model="m1", generation="g"):
    return LedgerEntry(uri, generation, "5e", model, "p1", "float32", run, at)


def test_lines_survive_arrow_and_the_file(tmp_path):
    lines = [
        line("/ü.jpg", at=1795156200.123456),
        line("http://host/x", generation=None, at=0.0),
        line("/a.jpg", at=1795156200.0000001),
    ]
    expected = [*lines[:2], line("/a.jpg", at=1795156200.0)]
    assert list(entries_from_arrow(entries_to_arrow(lines))) == expected
    pq.write_table(entries_to_arrow(lines), tmp_path / "manifest.parquet")
    with open_manifest(str(tmp_path / "manifest.parquet")) as manifest:
        assert list(entries_from_arrow(manifest.read())) == expected


def test_no_lines_have_the_schema_all_the_same():
    assert entries_to_arrow([]).schema.equals(MANIFEST_SCHEMA)
    assert list(entries_from_arrow(entries_to_arrow([]))) == []


def test_a_new_line_is_what_its_manifest_gives_back():
    one = embedding("/a.jpg", 1.0, 1795156200.12345678)
    entry = ledger_entry(one, made_by("m1"), "run")
    assert entry == LedgerEntry(
        "/a.jpg", "g1", one.info.sha256, "m1", "p1", "float32", "run", 1795156200.123457
    )
    assert list(entries_from_arrow(entries_to_arrow([entry]))) == [entry]


def both_ways(lines):
    """What is live by the pure function, after a check that the Arrow one says the same."""
    live = sorted(live_entries(lines), key=lambda one: one.key)
    assert list(entries_from_arrow(live_rows(entries_to_arrow(lines)))) == live
    return live


def test_the_latest_line_of_a_key_counts():
    assert both_ways([line(at=2.0, run="1"), line(at=3.0, run="0"), line(at=1.0, run="2")]) == [
        line(at=3.0, run="0")
    ]


def test_of_two_equally_late_lines_that_of_the_later_run_counts():
    assert both_ways([line(run="2"), line(run="3"), line(run="1")]) == [line(run="3")]


def test_the_same_line_in_two_manifests_counts_once():
    assert both_ways([line(), line()]) == [line()]


def test_another_model_makes_another_row():
    assert len(both_ways([line(), line(model="m2"), line("/b.jpg")])) == 3
    assert both_ways([]) == []


def test_many_lines_in_any_order_in_many_chunks():
    lines = [
        line(
            f"/{number % 97}.jpg",
            run=str(number % 7),
            at=float(number % 13),
            model=f"m{number % 2}",
        )
        for number in range(2000)
    ]
    random.Random(0).shuffle(lines)
    live = both_ways(lines)
    assert len(live) == 97 * 2
    chunks = [entries_to_arrow(lines[start : start + 77]) for start in range(0, 2000, 77)]
    assert list(entries_from_arrow(live_rows(pa.concat_tables(chunks)))) == live


def test_a_line_takes_some_fifty_bytes_of_a_manifest(tmp_path):
    # So that the number in docs/incremental.md stays true.
    rng = random.Random(0)
    lines = [
        LedgerEntry(
            f"gs://some-bucket/photos/2026/{number // 1000:04d}/IMG_{number:08d}.jpg",
            str(1795156200000000 + rng.randrange(10**12)),
            f"{rng.getrandbits(256):064x}",
            "0123456789abcdef",
            "fedcba9876543210",
            "float32",
            "20261120T063000Z-0123abcd",
            1795156200.0 + number / 250,
        )
        for number in range(50_000)
    ]
    path = tmp_path / "manifest.parquet"
    pq.write_table(entries_to_arrow(lines), path, compression="zstd")
    assert path.stat().st_size / len(lines) < 60


def test_a_file_that_is_no_manifest_is_named(tmp_path):
    path = tmp_path / "manifest-00000-of-00001.parquet"
    path.write_bytes(b"PAR1 and no more")
    with (
        pytest.raises(ValueError, match=f"cannot read the manifest {path}"),
        open_manifest(str(path)),
    ):
        pass
    pq.write_table(pa.table({"uri": ["/a.jpg"]}), path)
    with (
        pytest.raises(ValueError, match=f"cannot read the manifest {path}: its columns are uri"),
        open_manifest(str(path)),
    ):
        pass


def test_a_manifest_that_is_damaged_inside_is_named(tmp_path):
    path = tmp_path / "manifest-00000-of-00001.parquet"
    pq.write_table(entries_to_arrow([line(f"/{n}.jpg") for n in range(1000)]), path)
    content = bytearray(path.read_bytes())
    content[100:400] = bytes(300)
    path.write_bytes(content)
    with (
        pytest.raises(ValueError, match=f"cannot read the manifest {path}"),
        open_manifest(str(path)) as manifest,
    ):
        manifest.read()
