"""The reader for everybody: plain folders, run folders, and the live rows of many runs."""

import shutil

import numpy as np
import pytest
from components import require
from incremental_folders import (
    WIDTH,
    assert_every_image_once,
    embedding,
    entries,
    put_run,
    run_id,
)
from storage_emulator import storage_emulator, upload

from transforms.folders.output_names import run_folder
from transforms.search.read_embeddings import read_embeddings

A1, A3 = embedding("/a", 1, 1), embedding("/a", 3, 3)
B2, C4, D5 = embedding("/b", 2, 2), embedding("/c", 4, 4), embedding("/d", 5, 5)


def values(table):
    """URI and the value that all of its vector is made of, in order."""
    assert table.vectors.shape == (len(table), WIDTH)
    assert (table.vectors == table.vectors[:, :1]).all()
    return list(zip(table.uris, table.vectors[:, 0].tolist(), strict=True))


def put_history(folder, file_format="parquet"):
    """Three nights: two images; one of them changed and two new; one pruned."""
    put_run(folder, 1, [A1, B2], entries(1, [A1, B2]), file_format=file_format)
    put_run(
        folder,
        2,
        [D5, A3, C4],
        entries(1, [B2]) + entries(2, [D5, A3, C4]),
        parents=[1],
        shards=2,
        file_format=file_format,
    )
    put_run(
        folder, 3, [], entries(1, [B2]) + entries(2, [D5, A3]), parents=[2], file_format=file_format
    )


LIVE = [("/b", 2), ("/d", 5), ("/a", 3)]


@pytest.mark.parametrize("file_format", ["parquet", "tfrecord"])
def test_neither_replaced_nor_pruned_rows_are_returned(tmp_path, file_format):
    put_history(tmp_path, file_format)
    table = read_embeddings(tmp_path)
    # By run, then by shard, then by place in the shard.
    assert values(table) == LIVE
    assert table.generations == ["g2", "g5", "g3"]
    assert table.sha256 == [B2.info.sha256, D5.info.sha256, A3.info.sha256]
    assert table.heights.tolist() == [3, 3, 3]
    assert table.provenance.model_fingerprint == "m1"
    assert sorted(assert_every_image_once(tmp_path)) == ["/a", "/b", "/d"]


def test_runs_may_differ_in_their_format(tmp_path):
    put_run(tmp_path, 1, [A1, B2], entries(1, [A1, B2]), file_format="tfrecord")
    put_run(tmp_path, 2, [A3], entries(1, [B2]) + entries(2, [A3]), parents=[1])
    assert values(read_embeddings(tmp_path)) == [("/b", 2), ("/a", 3)]


def test_a_run_that_was_killed_is_not_read(tmp_path):
    put_run(tmp_path, 1, [A1], entries(1, [A1]))
    put_run(tmp_path, 2, [B2, A3], entries(2, [B2, A3]), parents=[1], complete=False)
    assert values(read_embeddings(tmp_path)) == [("/a", 1)]


def test_of_two_runs_that_overlapped_each_image_comes_once(tmp_path):
    put_run(tmp_path, 1, [A1, B2], entries(1, [A1, B2]))
    put_run(tmp_path, 2, [A3, C4], entries(1, [B2]) + entries(2, [A3, C4]), parents=[1])
    other = embedding("/c", 7, 3.5)
    put_run(tmp_path, 3, [other, D5], entries(1, [A1, B2]) + entries(3, [other, D5]), parents=[1])
    assert values(read_embeddings(tmp_path)) == [("/b", 2), ("/a", 3), ("/c", 4), ("/d", 5)]
    assert len(assert_every_image_once(tmp_path)) == 4


def test_the_folder_of_one_run_is_read_with_all_its_rows(tmp_path):
    put_history(tmp_path)
    one = run_folder(str(tmp_path), run_id(1))
    assert values(read_embeddings(one)) == [("/a", 1), ("/b", 2)]
    killed = put_run(tmp_path, 4, [C4], complete=False)
    with pytest.raises(FileNotFoundError, match="no complete output"):
        read_embeddings(killed)
    assert values(read_embeddings(killed, allow_incomplete=True)) == [("/c", 4)]


def test_a_ledger_without_a_row_gives_an_empty_table(tmp_path):
    put_run(tmp_path, 1, [A1], entries(1, [A1]))
    put_run(tmp_path, 2, [], [], parents=[1])
    table = read_embeddings(tmp_path)
    assert values(table) == []
    assert table.provenance is None


def test_several_models_are_an_error_unless_one_is_chosen(tmp_path):
    both = entries(1, [A1]) + entries(2, [A3, B2], model="m2")
    put_run(tmp_path, 1, [A1], entries(1, [A1]))
    put_run(tmp_path, 2, [A3, B2], both, parents=[1], model="m2")
    with pytest.raises(ValueError, match="cannot be compared") as raised:
        read_embeddings(tmp_path)
    assert "1 rows with model_fingerprint m1" in str(raised.value)
    assert "2 rows with model_fingerprint m2" in str(raised.value)
    assert "precision" not in str(raised.value).split(";")[0]
    assert values(read_embeddings(tmp_path, model_fingerprint="m1")) == [("/a", 1)]
    assert values(read_embeddings(tmp_path, model_fingerprint="m2")) == [("/a", 3), ("/b", 2)]
    with pytest.raises(ValueError, match="no live row with model_fingerprint m3"):
        read_embeddings(tmp_path, model_fingerprint="m3")


def test_a_plain_folder_of_another_model_than_the_chosen_one_is_an_error(tmp_path):
    one = put_run(tmp_path, 1, [A1], entries(1, [A1]))
    assert len(read_embeddings(one, model_fingerprint="m1", precision="float32")) == 1
    with pytest.raises(ValueError, match="model_fingerprint is m1, not m2"):
        read_embeddings(one, model_fingerprint="m2")


def test_a_run_that_holds_live_rows_and_is_missing_is_named(tmp_path):
    put_history(tmp_path)
    shutil.rmtree(run_folder(str(tmp_path), run_id(1)))
    with pytest.raises(FileNotFoundError, match=rf"1 live rows lie in the run {run_id(1)}"):
        read_embeddings(tmp_path)
    assert values(read_embeddings(tmp_path, allow_incomplete=True)) == LIVE[1:]


def test_a_row_that_the_ledger_names_and_its_run_lacks_is_an_error(tmp_path):
    put_run(tmp_path, 1, [A1], entries(1, [A1, B2]))
    with pytest.raises(ValueError, match=rf"{run_id(1)} lacks 1 of the rows .* /b for one"):
        read_embeddings(tmp_path)
    with pytest.raises(AssertionError, match="lacks /b"):
        assert_every_image_once(tmp_path)
    assert values(read_embeddings(tmp_path, allow_incomplete=True)) == [("/a", 1)]


def test_a_missing_shard_of_a_run_with_live_rows_is_an_error(tmp_path):
    put_history(tmp_path)
    (tmp_path / "runs" / run_id(2) / "embeddings-00001-of-00002.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="1 of the 2 shards"):
        read_embeddings(tmp_path)
    table = read_embeddings(tmp_path, allow_incomplete=True)
    assert values(table) == [("/b", 2), ("/d", 5)]


def test_a_folder_of_killed_runs_only_is_not_complete(tmp_path):
    put_run(tmp_path, 1, [A1], entries(1, [A1]), complete=False)
    with pytest.raises(FileNotFoundError, match=r"no run in .* has a _SUCCESS"):
        read_embeddings(tmp_path)


def test_many_rows_are_left_out_without_harm_to_the_others(tmp_path):
    many = [embedding(f"/{number}", number, 1) for number in range(10_000)]
    kept = [one for number, one in enumerate(many) if number % 3]
    put_run(tmp_path, 1, many, entries(1, kept))
    assert values(read_embeddings(tmp_path)) == [(one.info.uri, one.vector[0]) for one in kept]


def test_a_file_uri_and_a_relative_path_name_a_folder_too(tmp_path, monkeypatch):
    put_history(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert values(read_embeddings((tmp_path / "out").as_uri())) == LIVE
    assert values(read_embeddings("out")) == LIVE


def test_a_folder_in_a_bucket(tmp_path):
    require("gcp_storage_emulator", "pip install 'embed-images[dev]'")
    put_history(tmp_path / "parquet")
    put_history(tmp_path / "tfrecord", "tfrecord")
    for folder in ("parquet", "tfrecord"):
        put_run(tmp_path / folder, 4, [C4], entries(4, [C4]), parents=[3], complete=False)
    with storage_emulator() as bucket:
        upload(tmp_path, f"{bucket}/deep/er")
        for folder in ("parquet", "tfrecord"):
            table = read_embeddings(f"{bucket}/deep/er/{folder}")
            assert values(table) == LIVE
            vectors = assert_every_image_once(f"{bucket}/deep/er/{folder}/")
            np.testing.assert_array_equal(vectors["/a"], A3.vector)
