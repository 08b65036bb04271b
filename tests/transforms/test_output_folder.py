"""The output folder: what is ours in it, and what is left at every moment of a new start."""

import os
import shutil
from pathlib import Path

import pytest

from transforms.errors import RequestError
from transforms.output_folder import (
    check_output,
    embedding_shards,
    is_complete,
    join,
    prepare_output,
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


@pytest.mark.parametrize("deletions", range(11))
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
