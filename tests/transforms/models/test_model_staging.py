"""Models written to folders and to gs://: as a whole, and never over anything else."""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf
from storage_emulator import storage_emulator

from transforms.errors import JobError, RequestError, UnusableModel
from transforms.models.model_resolution import resolve_model
from transforms.models.model_staging import check_destination, files_below, model_files, write_model

MODEL = {
    "saved_model.pb": b"graph",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"weights",
    "model.json": b"{}",
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return saved(tmp_path / "made", MODEL)


@pytest.fixture
def bucket() -> Iterator[str]:
    with storage_emulator() as uri:
        yield uri


def saved(folder: Path, contents: dict[str, bytes]) -> dict[str, Path]:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return files_below(str(folder))


def contents(folder: str | Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files_below(str(folder)).items()}


def objects(prefix: str) -> dict[str, bytes]:
    from apache_beam.io.filesystems import FileSystems

    found = {}
    for metadata in FileSystems.match([f"{prefix}/**"])[0].metadata_list:
        with FileSystems.open(metadata.path) as file:
            found[metadata.path.removeprefix(f"{prefix}/")] = file.read()
    return found


def put(uri: str, content: bytes) -> None:
    from apache_beam.io.filesystems import FileSystems

    with FileSystems.create(uri) as file:
        file.write(content)


def test_the_files_of_a_model_are_told_from_what_lies_beside_them(tmp_path: Path) -> None:
    beside = {"notes.txt": b"", "serving/saved_model.pb": b"", "assets/words.txt": b"words"}
    saved(tmp_path, MODEL | beside)
    assert set(model_files(str(tmp_path))) == {*MODEL, "assets/words.txt"} - {"model.json"}


def test_a_linked_weight_file_is_copied_and_not_its_link(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    link = tmp_path / "link"
    link.symlink_to(files["saved_model.pb"])
    write_model({"saved_model.pb": link}, str(tmp_path / "new"))
    assert not (tmp_path / "new" / "saved_model.pb").is_symlink()
    assert contents(tmp_path / "new") == {"saved_model.pb": b"graph"}


@pytest.mark.parametrize("made_before", [False, True])
def test_a_new_or_empty_folder_is_filled(
    tmp_path: Path, files: dict[str, Path], made_before: bool
) -> None:
    folder = tmp_path / "a" / "b"
    if made_before:
        folder.mkdir(parents=True)
    check_destination(str(folder), overwrite=False)
    write_model(files, str(folder))
    assert contents(folder) == MODEL
    assert os.listdir(folder.parent) == ["b"]


def test_a_model_is_replaced_only_when_asked_and_then_as_a_whole(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    folder = tmp_path / "staged"
    old = {**MODEL, "assets/old": b"", "serving/old": b""}
    saved(folder, {**old, "model.json": json.dumps({"files": [*old]}).encode()})
    with pytest.raises(RequestError, match=r"already holds a model; use --overwrite or another"):
        check_destination(str(folder), overwrite=False)
    check_destination(str(folder), overwrite=True)
    write_model(files, str(folder))
    assert contents(folder) == MODEL


def test_a_folder_with_anything_else_is_never_replaced(tmp_path: Path) -> None:
    saved(tmp_path, {**MODEL, "thesis.txt": b"years of work"})
    for overwrite in (False, True):
        with pytest.raises(RequestError, match=r"holds thesis\.txt, which is no part of a model"):
            check_destination(str(tmp_path), overwrite=overwrite)


@pytest.mark.parametrize(
    "foreign",
    [
        "assets/site.css",
        "serving/app.py",
        "serving/saved_model.pb.bak",
        "variables/thesis.txt",
        "variables/variables.tar",
        "assets.extra/notes.txt",
    ],
)
@pytest.mark.parametrize("beside", [{}, MODEL], ids=["alone", "in a model"])
def test_a_name_that_models_use_too_does_not_make_a_file_ours(
    tmp_path: Path, foreign: str, beside: dict[str, bytes]
) -> None:
    saved(tmp_path, {**beside, foreign: b"years of work"})
    with pytest.raises(RequestError, match="which is no part of a model") as told:
        check_destination(str(tmp_path), overwrite=True)
    assert f"holds {foreign}," in str(told.value)


def test_a_list_in_model_json_names_all_that_may_be_replaced(tmp_path: Path) -> None:
    listed = json.dumps({"files": [*MODEL]}).encode()
    saved(tmp_path, {**MODEL, "model.json": listed})
    check_destination(str(tmp_path), overwrite=True)
    saved(tmp_path, {"fingerprint.pb": b""})
    with pytest.raises(RequestError, match=r"holds fingerprint\.pb, which is no part"):
        check_destination(str(tmp_path), overwrite=True)


def test_folders_and_links_of_others_are_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    saved(folder, MODEL)
    (folder / "assets").mkdir()
    check_destination(str(folder), overwrite=True)
    (folder / "album").mkdir()
    with pytest.raises(RequestError, match="holds album/, which is no part"):
        check_destination(str(folder), overwrite=True)
    (folder / "album").rmdir()
    (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(RequestError, match="holds linked, which is no part"):
        check_destination(str(folder), overwrite=True)


def test_what_tensorflow_saved_may_be_replaced_with_its_assets_and_no_others(
    tmp_path: Path,
) -> None:
    (tmp_path / "words.txt").write_text("words")
    module = tf.Module()
    module.words = tf.saved_model.Asset(str(tmp_path / "words.txt"))
    folder = tmp_path / "m"
    for each in (folder, folder / "serving"):
        tf.saved_model.save(module, str(each))
    check_destination(str(folder), overwrite=True)
    saved(folder, {"serving/assets/site.css": b"years of work"})
    with pytest.raises(RequestError, match=r"holds serving/assets/site\.css, which is no part"):
        check_destination(str(folder), overwrite=True)


def test_what_killed_stagings_left_is_removed_and_nothing_else(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    saved(tmp_path / ".m.staging-abcd1234", {"copy/saved_model.pb": b"", "former/x": b""})
    kept = [".m.staging-mine", ".n.staging-abcd1234", ".m.staging-wxyz5678", ".m.staging-busy_123"]
    for name in kept:
        saved(tmp_path / name, {("notes" if "wxyz" in name else "copy/x"): b""})
    under_way = os.open(tmp_path / ".m.staging-busy_123", os.O_RDONLY)
    fcntl.flock(under_way, fcntl.LOCK_EX)
    write_model(files, str(tmp_path / "m"))
    os.close(under_way)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "m", "made"])


def test_a_model_that_cannot_be_copied_leaves_the_former_one(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    folder = tmp_path / "staged"
    saved(folder, {**MODEL, "saved_model.pb": b"former"})
    with pytest.raises(JobError, match=r"cannot be written to .*staged: .*No such file"):
        write_model({**files, "assets/gone": tmp_path / "gone"}, str(folder))
    assert contents(folder)["saved_model.pb"] == b"former"
    assert sorted(os.listdir(tmp_path)) == ["made", "staged"]


@pytest.mark.parametrize(
    ("destination", "told"),
    [
        ("https://tfhub.dev/google/m/1", "cannot be written to https://tfhub.dev/google/m/1"),
        ("gs://bucket/a*b", r"cannot be written to gs://bucket/a\*b"),
        ("gs://", "gs:// names no bucket; give gs://bucket/folder"),
        ("gs:///m", "gs:///m names no bucket"),
        ("", "DEST is empty; give a folder"),
        ("file://", "DEST is empty; give a folder"),
        ("unknown://host/model", "unknown://host/model cannot be used"),
    ],
)
def test_a_place_for_no_folder_is_refused(destination: str, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        check_destination(destination, overwrite=True)


def test_a_file_is_no_destination(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="is a file; give a folder"):
        check_destination(str(tmp_path / "file"), overwrite=True)


def test_a_bucket_gets_the_whole_model(bucket: str, files: dict[str, Path]) -> None:
    check_destination(f"{bucket}/models/m/", overwrite=False)
    write_model(files, f"{bucket}/models/m/")
    assert objects(f"{bucket}/models/m") == MODEL
    with pytest.raises(RequestError, match="already holds a model; use --overwrite"):
        check_destination(f"{bucket}/models/m", overwrite=False)


def test_a_model_in_a_bucket_is_replaced_without_leftovers(
    bucket: str, files: dict[str, Path], tmp_path: Path
) -> None:
    listed = json.dumps({"files": [*MODEL, "assets/old"]}).encode()
    former = saved(tmp_path / "old", {**MODEL, "assets/old": b"", "model.json": listed})
    write_model(former, f"{bucket}/m")
    check_destination(f"{bucket}/m", overwrite=True)
    write_model(files, f"{bucket}/m")
    assert objects(f"{bucket}/m") == MODEL


def test_a_bucket_folder_with_anything_else_is_never_touched(bucket: str) -> None:
    put(f"{bucket}/photos/1.jpg", b"jpeg")
    with pytest.raises(RequestError, match=r"holds 1\.jpg, which is no part of a model"):
        check_destination(f"{bucket}/photos", overwrite=True)
    put(f"{bucket}/site/assets/site.css", b"")
    with pytest.raises(RequestError, match=r"holds assets/site\.css, which is no part of a model"):
        check_destination(f"{bucket}/site", overwrite=True)


def test_a_file_beside_a_model_in_a_bucket_is_never_deleted(
    bucket: str, files: dict[str, Path]
) -> None:
    write_model(files, f"{bucket}/m")
    put(f"{bucket}/m/variables/thesis.txt", b"years of work")
    with pytest.raises(RequestError, match=r"holds variables/thesis\.txt, which is no part"):
        check_destination(f"{bucket}/m", overwrite=True)


def test_what_breaks_off_in_a_bucket_counts_as_no_model(
    bucket: str, files: dict[str, Path], tmp_path: Path
) -> None:
    # The last file but saved_model.pb and model.json, in the order of their names.
    files = {"assets/words.txt": files["saved_model.pb"], **files}
    broken = {**files, "variables/variables.index": tmp_path / "gone"}
    write_model(files, f"{bucket}/m")
    with pytest.raises(JobError, match="cannot be written to gs://"):
        write_model(broken, f"{bucket}/m")
    assert objects(f"{bucket}/m").keys() == {
        "unfinished.json",
        "assets/words.txt",
        "variables/variables.data-00000-of-00001",
    }
    with pytest.raises(UnusableModel, match=r"there is no saved_model\.pb"):
        resolve_model(f"{bucket}/m")
    with pytest.raises(RequestError, match="already holds a part of a model; use --overwrite"):
        check_destination(f"{bucket}/m", overwrite=False)
    check_destination(f"{bucket}/m", overwrite=True)
    write_model(files, f"{bucket}/m")
    assert objects(f"{bucket}/m") == MODEL | {"assets/words.txt": b"graph"}
