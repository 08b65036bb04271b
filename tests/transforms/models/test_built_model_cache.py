"""Models that are built on this machine: once, completely, and again where something is lost."""

import threading
import time
from pathlib import Path

import pytest

from transforms.errors import UnusableModel
from transforms.models.built_model_cache import built_model_folder


class Builder:
    """Builds a folder that looks like a model, and counts."""

    def __init__(self) -> None:
        self.builds = 0

    def __call__(self, folder: Path) -> None:
        self.builds += 1
        time.sleep(0.1)
        (folder / "variables").mkdir()
        for name in ("variables.index", "variables.data-00000-of-00001"):
            (folder / "variables" / name).write_text("weights")
        for name in ("saved_model.pb", "model.json"):
            (folder / name).write_text("model")


def test_threads_that_ask_at_once_get_one_build(tmp_path: Path) -> None:
    build = Builder()
    folders: list[str] = []

    def ask() -> None:
        folders.append(built_model_folder("model", build, "it", cache=str(tmp_path)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [str(tmp_path / "model")] * 4
    assert build.builds == 1


@pytest.mark.parametrize(
    "lost",
    [
        "saved_model.pb",
        "model.json",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
    ],
)
def test_a_model_that_has_lost_a_file_is_built_again(tmp_path: Path, lost: str) -> None:
    build = Builder()
    folder = built_model_folder("model", build, "it", cache=str(tmp_path))
    Path(folder, lost).unlink()
    (tmp_path / "model.unfinished-x").mkdir()
    assert built_model_folder("model", build, "it", cache=str(tmp_path)) == folder
    assert Path(folder, lost).exists()
    assert build.builds == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.lock"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        (folder / "saved_model.pb").write_text("half")
        raise UnusableModel("these weights are no good")

    with pytest.raises(UnusableModel, match="no good"):
        built_model_folder("model", refuse, "it", cache=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["model.lock"]


def test_a_cache_that_cannot_be_written_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = str(tmp_path / "file" / "cache")
    with pytest.raises(UnusableModel, match=r"my model cannot be kept in .*EMBED_IMAGES_CACHE"):
        built_model_folder("model", Builder(), "my model", cache=cache)


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UnusableModel, match=r"No space left on device; set EMBED_IMAGES_CACHE"):
        built_model_folder("model", fill, "it", cache=str(tmp_path))
