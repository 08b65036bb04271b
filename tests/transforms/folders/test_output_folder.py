"""The output folder: what is ours in it, and what is left at every moment of a new start."""

import os
import shutil
from pathlib import Path

import pytest
from components import require
from storage_emulator import storage_emulator, upload

from transforms.errors import RequestError
from transforms.folders.output_folder import (
    check_incremental_output,
    check_output,
    create_run_folder,
    embedding_formats,
    embedding_shards,
    is_complete,
    is_output_file,
    join,
    list_runs,
    manifest_shards,
    one_shard_set,
    output_files,
    prepare_output,
    run_folder,
    stale_files,
    success_path,
    write_text,
)

UUID = "0123456789abcdef" * 2

OURS = [
    "_SUCCESS",
    f"_SUCCESS.tmp-{UUID}",
    "embeddings-00000-of-00002.tfrecord",
    "embeddings-00001-of-00002.tfrecord.gz",
    "embeddings-100000-of-100001.tfrecord",
    "embeddings-00000-of-00001.parquet",
    f"beam-temp-embeddings-{UUID}/1b4e28ba.embeddings.tfrecord",
    "schema.pbtxt",
    "run.json",
    f"run.json.tmp-{UUID}",
    f".embed-images-probe-{UUID}",
    "dead_letters/dead_letters-00000-of-00001.jsonl",
    f"dead_letters/beam-temp-dead_letters-{UUID}/1b4e28ba.dead_letters.jsonl",
]

THE_USERS = [
    "embeddings.txt",
    "embeddings-2024.tfrecord",
    "embeddings-00000-of-00002.tfrecord.bak",
    "embeddings-00000-of-00002.csv",
    "my-embeddings-00000-of-00002.tfrecord",
    "beam-temp-embeddings-notes/embeddings-00000-of-00002.tfrecord",
    "beam-temp-other-" + UUID + "/x",
    "notes/embeddings-00000-of-00002.tfrecord",
    "notes/_SUCCESS",
    "run.json.old",
    "schema.pbtxt.tmp-old",
    "dead_letters/why.txt",
    "dead_letters/dead_letters.jsonl",
    "embeddings.parquet",
    # A plain run writes no ledger.
    "manifest-00000-of-00001.parquet",
    "runs/marathon.jpg",
    "runs/2026/start.jpg",
]

RUN = "20261120T063000Z-0123abcd"
KILLED = "20261121T063000Z-0123abcd"

OF_INCREMENTAL_RUNS = [
    *(f"runs/{RUN}/{name}" for name in OURS),
    f"runs/{RUN}/manifest-00000-of-00001.parquet",
    f"runs/{RUN}/beam-temp-manifest-{UUID}/1b4e28ba.manifest.parquet",
    f"runs/{KILLED}/run.json",
    f"runs/{KILLED}/notes/of/mine.txt",
    f"runs/.embed-images-probe-{UUID}",
]


def put(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("something")


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_prepare_output_removes_what_a_run_left_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path, OURS + THE_USERS)
    # A folder that has the name of a shard was not made by a run.
    put(tmp_path, ["embeddings-00007-of-00009.tfrecord/x"])

    prepare_output(str(tmp_path), overwrite=True)

    assert files_in(tmp_path) == {*THE_USERS, "embeddings-00007-of-00009.tfrecord/x"}
    assert not (tmp_path / f"beam-temp-embeddings-{UUID}").exists()
    assert stale_files(str(tmp_path)) == []


def test_prepare_output_removes_a_temporary_folder_that_is_empty(tmp_path: Path) -> None:
    (tmp_path / f"beam-temp-embeddings-{UUID}").mkdir()
    prepare_output(str(tmp_path), overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_prepare_output_creates_the_folder_and_leaves_no_probe(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    prepare_output(str(folder), overwrite=False)
    assert list(folder.iterdir()) == []


def test_a_complete_output_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, OURS)
    with pytest.raises(RequestError, match=r"already holds a complete output.*--overwrite"):
        prepare_output(str(tmp_path), overwrite=False)
    assert files_in(tmp_path) == set(OURS)


def test_an_output_without_success_is_cleaned_without_overwrite(tmp_path: Path) -> None:
    put(tmp_path, [name for name in OURS if name != "_SUCCESS"])
    prepare_output(str(tmp_path), overwrite=False)
    assert files_in(tmp_path) == set()


def test_check_output_changes_nothing(tmp_path: Path) -> None:
    check_output(str(tmp_path / "new"), overwrite=False)
    put(tmp_path, OURS)
    check_output(str(tmp_path), overwrite=True)
    assert files_in(tmp_path) == set(OURS)
    with pytest.raises(RequestError, match="already holds a complete output"):
        check_output(str(tmp_path), overwrite=False)


@pytest.mark.parametrize("deletions", range(12))
def test_killed_while_it_cleans_success_is_the_first_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deletions: int
) -> None:
    put(tmp_path, OURS)
    left = deletions

    def killed_after_some(delete):
        def deletes(path, *arguments, **options):
            nonlocal left
            if ".embed-images-probe-" not in str(path):
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
            return delete(path, *arguments, **options)

        return deletes

    with monkeypatch.context() as patch:
        patch.setattr(os, "remove", killed_after_some(os.remove))
        patch.setattr(shutil, "rmtree", killed_after_some(shutil.rmtree))
        with pytest.raises(KeyboardInterrupt):
            prepare_output(str(tmp_path), overwrite=True)

    assert is_complete(str(tmp_path)) == (deletions == 0)
    if deletions == 0:
        assert files_in(tmp_path) == set(OURS)
    prepare_output(str(tmp_path), overwrite=deletions == 0)
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("in_the_way", ["out", "out/dead_letters"])
def test_a_file_in_the_way_of_a_folder_is_refused(tmp_path: Path, in_the_way: str) -> None:
    put(tmp_path, [in_the_way])
    with pytest.raises(RequestError, match=f"{in_the_way} is no folder"):
        prepare_output(str(tmp_path / "out"), overwrite=True)
    assert files_in(tmp_path) == {in_the_way}


def test_a_file_in_the_way_of_the_parent_is_refused(tmp_path: Path) -> None:
    put(tmp_path, ["a"])
    with pytest.raises(RequestError, match="Not a directory"):
        prepare_output(str(tmp_path / "a" / "b" / "out"), overwrite=True)


@pytest.mark.parametrize("name", ["_SUCCESS", "run.json", "schema.pbtxt"])
def test_a_folder_in_the_way_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path, [f"{name}/x"])
    with pytest.raises(RequestError, match=f"{name} is a folder where a file has to go"):
        prepare_output(str(tmp_path), overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        for folder in (tmp_path, tmp_path / "new"):
            with pytest.raises(RequestError, match=r"Permission denied.*may write to"):
                prepare_output(str(folder), overwrite=True)
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("name", ["out[1]", "out*", "what?"])
def test_a_name_that_beam_takes_for_a_pattern_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="for a pattern"):
        prepare_output(str(tmp_path / name), overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_a_url_that_no_storage_answers_for_is_refused() -> None:
    with pytest.raises(RequestError, match="nowhere://bucket/out"):
        prepare_output("nowhere://bucket/out", overwrite=False)


def test_write_text_twice_leaves_the_same_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for text in ("first, and longer than the second", "zweite: ü\n", "zweite: ü\n"):
        write_text(str(path), text)
        assert path.read_bytes() == text.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_write_text_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OSError, match=r"run\.json"):
        write_text(str(tmp_path / "run.json"), "text")
    assert files_in(tmp_path) == set()


def test_shards_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    total = 100_001
    some = [f"embeddings-{number:05d}-of-{total}.tfrecord" for number in (100_000, 2, 99_999)]
    put(tmp_path, some + THE_USERS)
    shards = embedding_shards(str(tmp_path), allow_incomplete=True)
    assert shards == [str(tmp_path / some[place]) for place in (1, 2, 0)]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    put(tmp_path, ["_SUCCESS", *(f"embeddings-0000{n}-of-00003.tfrecord" for n in (0, 2))])
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 shards.*the first is number 1"):
        embedding_shards(str(tmp_path))


def test_a_success_without_any_shard_is_no_output(tmp_path: Path) -> None:
    write_text(success_path(str(tmp_path)), "")
    with pytest.raises(FileNotFoundError, match="missing"):
        embedding_shards(str(tmp_path))


@pytest.mark.parametrize(
    "other", ["embeddings-00000-of-00002.tfrecord", "embeddings-00000-of-00001.tfrecord.gz"]
)
def test_the_shards_of_two_runs_are_refused(tmp_path: Path, other: str) -> None:
    put(tmp_path, ["_SUCCESS", "embeddings-00000-of-00001.tfrecord", other])
    with pytest.raises(ValueError, match="more than one run"):
        embedding_shards(str(tmp_path))


def test_a_folder_that_is_not_there_is_not_complete(tmp_path: Path) -> None:
    folder = str(tmp_path / "nowhere")
    assert not is_complete(folder)
    assert stale_files(folder) == []
    with pytest.raises(FileNotFoundError, match="no complete output"):
        embedding_shards(folder)


def test_join_takes_paths_and_urls() -> None:
    assert join("gs://bucket/out/", "a", "b") == "gs://bucket/out/a/b"
    assert join("gs://bucket", "a") == "gs://bucket/a"
    assert join("/out/", "a") == "/out/a"
    assert join("/", "a") == "/a"


def test_everything_that_a_run_left_is_an_output_file() -> None:
    for name in (*OURS, *OF_INCREMENTAL_RUNS):
        assert is_output_file("/out", f"/out/{name}"), name
        assert is_output_file("gs://bucket/out", f"gs://bucket/out/{name}"), name
        assert not is_output_file("/out", f"/other/{name}")
    for name in THE_USERS:
        ledger = "manifest-00000" in name
        assert is_output_file("/out", f"/out/{name}") == ledger, name
    for name in ("embeddings-00000-of-00001.parquet", "manifest-00000-of-00001.parquet"):
        folder = run_folder("/out", RUN)
        assert is_output_file(folder, f"{folder}/{name}")


def test_a_plain_run_leaves_incremental_runs_alone(tmp_path: Path) -> None:
    put(tmp_path, [f"runs/{KILLED}/run.json", "embeddings-00000-of-00001.tfrecord"])
    before = files_in(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(RequestError, match=r"holds incremental runs.*use --incremental"):
            prepare_output(str(tmp_path), overwrite=overwrite)
    assert files_in(tmp_path) == before


def test_a_folder_of_the_user_that_is_called_runs_is_no_obstacle(tmp_path: Path) -> None:
    put(tmp_path, ["runs/marathon.jpg"])
    prepare_output(str(tmp_path), overwrite=False)
    check_incremental_output(str(tmp_path))
    assert files_in(tmp_path) == {"runs/marathon.jpg"}


def test_incremental_runs_leave_a_plain_output_alone(tmp_path: Path) -> None:
    put(tmp_path, OURS)
    with pytest.raises(RequestError, match=r"without --incremental.*use another folder"):
        check_incremental_output(str(tmp_path))
    assert files_in(tmp_path) == set(OURS)


def test_incremental_runs_go_beside_what_a_plain_run_left_when_it_was_killed(
    tmp_path: Path,
) -> None:
    unfinished = {name for name in OURS if name != "_SUCCESS"}
    put(tmp_path, sorted(unfinished))
    check_incremental_output(str(tmp_path))
    assert files_in(tmp_path) == unfinished


def test_each_incremental_run_gets_a_new_folder(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    check_incremental_output(str(out))
    assert files_in(tmp_path) == set()
    folder = run_folder(str(out), RUN)
    create_run_folder(folder)
    put(Path(folder), ["run.json"])
    with pytest.raises(RequestError, match="is there already"):
        create_run_folder(folder)
    check_incremental_output(str(out))
    assert files_in(out) == {f"runs/{RUN}/run.json"}


@pytest.mark.parametrize("in_the_way", ["out", "out/runs"])
def test_a_file_in_the_way_of_the_run_folders_is_refused(tmp_path: Path, in_the_way: str) -> None:
    put(tmp_path, [in_the_way])
    with pytest.raises(RequestError, match=f"{in_the_way} is no folder"):
        check_incremental_output(str(tmp_path / "out"))


def test_runs_are_listed_in_order_with_whether_they_are_complete(tmp_path: Path) -> None:
    assert list_runs(str(tmp_path)) == {}
    put(tmp_path, [*OF_INCREMENTAL_RUNS, *THE_USERS, "runs/20261119T063000Z-0123abcd/x"])
    expected = {"20261119T063000Z-0123abcd": False, RUN: True, KILLED: False}
    assert list_runs(str(tmp_path)) == expected
    assert list(list_runs(str(tmp_path))) == list(expected)


def test_each_format_has_a_set_of_shards_of_its_own(tmp_path: Path) -> None:
    tfrecords = [f"embeddings-0000{n}-of-00002.tfrecord" for n in (0, 1)]
    parquet = ["embeddings-00000-of-00001.parquet", "manifest-00000-of-00001.parquet"]
    put(tmp_path, ["_SUCCESS", *tfrecords, *parquet, "dead_letters/x"])
    folder = str(tmp_path)
    assert embedding_formats(folder) == ["tfrecord", "parquet"]
    assert embedding_shards(folder) == [f"{folder}/{name}" for name in tfrecords]
    assert one_shard_set(folder, "parquet") == [f"{folder}/{parquet[0]}"]
    assert manifest_shards(folder) == [f"{folder}/{parquet[1]}"]
    assert output_files(folder) == [
        f"{folder}/{name}" for name in (parquet[0], *tfrecords, parquet[1])
    ]
    (tmp_path / parquet[0]).rename(tmp_path / "embeddings-00001-of-00002.parquet")
    assert one_shard_set(folder) == [f"{folder}/{name}" for name in tfrecords]
    with pytest.raises(FileNotFoundError, match="the first is number 0"):
        one_shard_set(folder, "parquet")


def test_a_bucket_tells_the_same(tmp_path: Path) -> None:
    require("gcp_storage_emulator", "pip install 'embed-images[dev]'")
    put(tmp_path / "plain", OURS)
    put(tmp_path / "incremental", [*OF_INCREMENTAL_RUNS, *THE_USERS])
    with storage_emulator() as bucket:
        upload(tmp_path, f"{bucket}/x")
        folder = f"{bucket}/x/incremental"
        assert list_runs(folder) == {RUN: True, KILLED: False}
        with pytest.raises(RequestError, match="holds incremental runs"):
            prepare_output(folder, overwrite=True)
        check_incremental_output(folder)
        with pytest.raises(RequestError, match="without --incremental"):
            check_incremental_output(f"{bucket}/x/plain")
        with pytest.raises(RequestError, match="is there already"):
            create_run_folder(run_folder(folder, KILLED))
        create_run_folder(run_folder(folder, KILLED[:-1] + "0"))
        assert list_runs(folder) == {RUN: True, KILLED: False}
        check_incremental_output(f"{bucket}/new")
        prepare_output(f"{bucket}/x/plain", overwrite=True)
        assert stale_files(f"{bucket}/x/plain") == []
        with pytest.raises(RequestError, match="no-such-bucket"):
            check_incremental_output("gs://no-such-bucket/out")
