"""Models on gs://, from an emulator on loopback, and through Beam's local file system."""

from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest
from http_server import running_server
from storage_emulator import storage_emulator, upload
from tiny_models import save_tiny_model

from transforms.errors import UnusableModel
from transforms.models.model_copy import copy_files, list_model
from transforms.models.model_resolution import resolve_model
from transforms.models.safe_archive import ArchiveLimits
from transforms.records import ImageRef


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def bucket() -> Iterator[str]:
    with storage_emulator() as uri:
        yield uri


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def contents(folder: str | Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def test_a_folder_on_gs_is_copied_once_with_all_that_is_below_it(bucket: str, tiny: str) -> None:
    handle = upload(tiny, f"{bucket}/hub/4")
    folder = resolve_model(handle)
    assert contents(folder) == contents(tiny)
    inode = Path(folder).stat().st_ino
    assert resolve_model(handle) == folder
    assert Path(folder).stat().st_ino == inode


def test_an_archive_on_gs_is_copied_and_unpacked(bucket: str, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "m.tar.gz").write_bytes(hub_server.packed(tiny))
    handle = upload(tmp_path / "m.tar.gz", f"{bucket}/models/m.tar.gz")
    assert contents(resolve_model(handle)) == contents(tiny)


def test_a_model_that_was_saved_anew_is_copied_anew(bucket: str, tiny: str, tmp_path: Path) -> None:
    handle = upload(tiny, f"{bucket}/model")
    first = resolve_model(handle)
    other = save_tiny_model(tmp_path / "other", seed=1)
    upload(other, handle)
    assert contents(resolve_model(handle)) == contents(other)
    assert contents(first) == contents(tiny)


def test_an_address_that_leads_to_gs_is_read_from_there(
    bucket: str, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFHUB_MODEL_LOAD_FORMAT", "UNCOMPRESSED")
    upload(tiny, f"{bucket}/hub/model/4")
    with running_server() as hub:
        hub.answers["/model/4"] = hub_server.uncompressed(f"{bucket}/hub/model/4")
        folder = resolve_model(hub.url("/model/4"))
        assert hub.requests == ["/model/4?tf-hub-format=uncompressed"]
    assert contents(folder) == contents(tiny)


def test_a_place_without_a_model_is_refused(bucket: str, tiny: str) -> None:
    upload(tiny, f"{bucket}/versions/4")
    for handle, told in (
        (f"{bucket}/versions", f"no saved_model.pb in {bucket}/versions, or this user may not"),
        (f"{bucket}/missing", "there is no saved_model.pb"),
        (f"{bucket}/missing.tar.gz", "cannot be read: there is no object or prefix"),
    ):
        with pytest.raises(UnusableModel, match=told):
            resolve_model(handle)


def test_half_a_model_on_gs_is_refused(bucket: str, tiny: str) -> None:
    upload(f"{tiny}/saved_model.pb", f"{bucket}/half/saved_model.pb")
    with pytest.raises(UnusableModel, match=r"no complete model: variables/variables\.index"):
        resolve_model(f"{bucket}/half")


def test_a_storage_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnusableModel, match="unknown://host/model cannot be read"):
        resolve_model("unknown://host/model")


# The same functions on local paths.


def test_files_are_copied_with_their_folders(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    copy_files(tiny, list_model(tiny), tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(tiny)


@pytest.mark.parametrize("limits", [ArchiveLimits(max_bytes=1000), ArchiveLimits(max_files=2)])
def test_more_than_a_model_has_is_refused_before_it_is_copied(
    tiny: str, limits: ArchiveLimits
) -> None:
    with pytest.raises(UnusableModel, match="more than a model has"):
        list_model(tiny, limits)


def test_a_file_that_changes_meanwhile_is_noticed(tiny: str, tmp_path: Path) -> None:
    files = [ImageRef(f"{tiny}/saved_model.pb", size_bytes=1)]
    with pytest.raises(UnusableModel, match="has changed while it was copied"):
        copy_files(tiny, files, tmp_path)


def test_a_file_that_goes_meanwhile_is_named(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=f"{tiny}/gone cannot be read"):
        copy_files(tiny, [ImageRef(f"{tiny}/gone")], tmp_path)


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"'\.\./evil' in it leads out of the folder"):
        copy_files("gs://bucket/model", [ImageRef("gs://bucket/model/../evil")], tmp_path)
