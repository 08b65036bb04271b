"""Which runs count, and what is live after them."""

import json
import shutil
import time

import pytest
from incremental_folders import embedding, entries, put_run, run_id

from transforms.errors import RequestError
from transforms.folders.output_names import run_folder
from transforms.ledgers.incremental_runs import (
    complete_runs,
    heads,
    manifest_files,
    read_live_rows,
    vector_sets,
)
from transforms.records import CarriedColumn


def live_uris(folder):
    return read_live_rows(str(folder))["uri"].to_pylist()


def ids(*numbers):
    return tuple(map(run_id, numbers))


def test_a_folder_without_runs_has_none(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert complete_runs(str(folder)) == {}
        assert read_live_rows(str(folder)).num_rows == 0
    assert heads({}) == vector_sets({}) == ()


def test_the_last_of_a_chain_is_the_head(tmp_path):
    a, b = embedding("/a", 1, 1), embedding("/b", 2, 2)
    put_run(tmp_path, 1, [a], entries(1, [a]))
    put_run(tmp_path, 2, [b], entries(1, [a]) + entries(2, [b]), parents=[1])
    runs = complete_runs(str(tmp_path))
    assert tuple(runs) == ids(1, 2)
    assert heads(runs) == ids(2)
    rows = read_live_rows(str(tmp_path))
    assert rows.select(["uri", "run_id"]).to_pylist() == [
        {"uri": "/a", "run_id": run_id(1)},
        {"uri": "/b", "run_id": run_id(2)},
    ]
    assert read_live_rows(str(tmp_path), runs, columns=["uri"]).column_names == [
        *("uri", "model_fingerprint", "preprocess_fingerprint", "precision"),
        *("run_id", "embedded_at"),
    ]


def test_a_run_that_was_killed_does_not_count(tmp_path):
    a, b = embedding("/a", 1, 1), embedding("/b", 2, 2)
    put_run(tmp_path, 1, [a], entries(1, [a]))
    killed = put_run(tmp_path, 2, [b], entries(2, [b]), parents=[1], complete=False)
    (killed / "run.json").write_text('{"status": "runn')
    assert heads(complete_runs(str(tmp_path))) == ids(1)
    assert live_uris(tmp_path) == ["/a"]


def test_of_two_runs_that_overlapped_the_later_row_counts(tmp_path):
    a, both, later = embedding("/a", 1, 1), embedding("/b", 2, 2), embedding("/b", 3, 3)
    put_run(tmp_path, 1, [a], entries(1, [a]))
    put_run(tmp_path, 2, [later], entries(1, [a]) + entries(2, [later]), parents=[1])
    put_run(tmp_path, 3, [both], entries(1, [a]) + entries(3, [both]), parents=[1])
    runs = complete_runs(str(tmp_path))
    assert heads(runs) == ids(2, 3)
    rows = read_live_rows(str(tmp_path)).to_pylist()
    assert [(row["uri"], row["run_id"]) for row in rows] == [("/a", run_id(1)), ("/b", run_id(2))]
    # The next run starts from both, and is the one head again.
    put_run(tmp_path, 4, [], entries(1, [a]) + entries(2, [later]), parents=[2, 3])
    assert heads(complete_runs(str(tmp_path))) == ids(4)


def test_a_pruned_row_does_not_come_back_when_old_run_folders_are_deleted(tmp_path):
    a, b = embedding("/a", 1, 1), embedding("/b", 2, 2)
    put_run(tmp_path, 1, [a, b], entries(1, [a, b]))
    put_run(tmp_path, 2, [], entries(1, [b]), parents=[1])
    put_run(tmp_path, 3, [], entries(1, [b]), parents=[2])
    assert live_uris(tmp_path) == ["/b"]
    # Run 2 holds no live row; without it nothing says that run 1 is no head any more.
    shutil.rmtree(run_folder(str(tmp_path), run_id(2)))
    assert heads(complete_runs(str(tmp_path))) == ids(3)
    assert live_uris(tmp_path) == ["/b"]


def test_a_run_whose_clock_was_behind_is_a_head_though_its_parent_is_gone(tmp_path):
    put_run(tmp_path, 1, [], entries(9, [embedding("/a", 1, 1)]), parents=[9])
    assert heads(complete_runs(str(tmp_path))) == ids(1)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"run_id": "2026', "JSONDecodeError"),
        (b"\xff", "UnicodeDecodeError"),
        (b"[]", "TypeError"),
        (b"{}", "run_id"),
        (json.dumps({"run_id": run_id(8), "parents": []}).encode(), run_id(8)),
        (json.dumps({"run_id": run_id(7)}).encode(), "parents"),
        (json.dumps({"run_id": run_id(7), "parents": [1]}).encode(), "no ids of runs"),
        (None, "FileNotFoundError"),
    ],
)
def test_a_torn_report_of_a_complete_run_is_an_error_that_names_it(tmp_path, content, problem):
    put_run(tmp_path, 1)
    report = put_run(tmp_path, 7, parents=[1]) / "run.json"
    report.unlink()
    if content is not None:
        report.write_bytes(content)
    with pytest.raises(RequestError) as raised:
        complete_runs(str(tmp_path))
    assert str(report) in str(raised.value)
    assert problem in str(raised.value)


def test_a_missing_manifest_is_an_error(tmp_path):
    put_run(tmp_path, 1)
    (path,) = manifest_files(str(tmp_path), ids(1))
    (tmp_path / "runs" / run_id(1) / "manifest-00000-of-00001.parquet").rename(
        tmp_path / "runs" / run_id(1) / "manifest-00000-of-00002.parquet"
    )
    with pytest.raises(RequestError, match=r"1 of the 2 shards of the ledger are missing"):
        manifest_files(str(tmp_path), ids(1))
    assert path.endswith("manifest-00000-of-00001.parquet")


def test_the_sets_of_vectors_are_told_by_their_newest_runs(tmp_path):
    put_run(tmp_path, 1, model="old")
    put_run(tmp_path, 2, model="new", parents=[1])
    put_run(
        tmp_path,
        3,
        model="old",
        parents=[2],
        facts={
            "model": {"handle": "gs://b/old", "fingerprint": "old", "precision": "float32"},
            "columns": [{"name": "price", "kind": "float64"}],
        },
    )
    new, old = vector_sets(complete_runs(str(tmp_path)))
    assert (new.provenance.model_fingerprint, new.facts["run_id"]) == ("new", run_id(2))
    assert (old.provenance.model_handle, old.facts["run_id"]) == ("gs://b/old", run_id(3))
    assert old.layout.embedding_width == 4
    assert old.columns == (CarriedColumn("price", "float64"),)
    assert new.columns == ()


def test_a_report_that_does_not_tell_the_vectors_is_an_error(tmp_path):
    put_run(tmp_path, 1, facts={"outputs": {}})
    with pytest.raises(RequestError, match=run_id(1)):
        vector_sets(complete_runs(str(tmp_path)))


def test_a_year_of_nightly_runs(tmp_path):
    for number in range(365):
        put_run(tmp_path, number, parents=[number - 1] if number else [])
    began = time.monotonic()
    runs = complete_runs(str(tmp_path))
    assert time.monotonic() - began < 5
    assert tuple(runs) == ids(*range(365))
    assert heads(runs) == ids(364)
    assert len(vector_sets(runs)) == 1
