"""The folders of the models that are built on this machine: each is built once, or not at all."""

import contextlib
import fcntl
import importlib.metadata
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from transforms.errors import UnusableModel
from transforms.workers.worker_log import log_event

#: What a complete model folder holds; one that lacks a file is built again.
_MODEL_FILES = (
    "saved_model.pb",
    "model.json",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
)


def builder_versions() -> str:
    """Return the versions of what builds the models, as a part of a folder's name.

    Example:
        >>> builder_versions().startswith("tensorflow")
        True
    """
    tensorflow, keras = (importlib.metadata.version(name) for name in ("tensorflow", "keras"))
    return f"tensorflow{tensorflow}-keras{keras}"


def built_model_folder(
    name: str, build: Callable[[Path], None], shown: str, cache: str | None = None
) -> str:
    """Return the folder `name` of the cache, which `build` fills on the first call.

    Whatever else happens, the folder is complete: it is built beside its place and renamed.
    Processes that ask at the same time wait for the one that builds, and what a killed
    build left behind is removed by the next.

    Args:
        name: of the folder; it says everything that decides what `build` makes.
        build: puts saved_model.pb, variables/ and model.json into the empty folder it is given.
        shown: the model in messages, such as "the untrained model".
        cache: the folder to keep models in. By default EMBED_IMAGES_CACHE, or else
            `embed-images` in XDG_CACHE_HOME or in ~/.cache.

    Raises:
        UnusableModel: the cache cannot be written, or `build` says so.

    Example:
        >>> built_model_folder("mine-1", save_mine, "my model")  # doctest: +SKIP
        '/var/cache/embed-images/mine-1'
    """
    root = Path(cache) if cache is not None else _default_cache()
    folder = root.absolute() / name
    if _is_complete(folder):
        return str(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_builder(folder):
            if not _is_complete(folder):
                _build_in_place(folder, build, shown)
    except OSError as error:
        raise UnusableModel(
            f"{shown} cannot be kept in {folder.parent}: {error}; set EMBED_IMAGES_CACHE to a "
            "folder that can be written and has 250 MB free"
        ) from error
    return str(folder)


def _default_cache() -> Path:
    own = os.environ.get("EMBED_IMAGES_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "embed-images"


def _is_complete(folder: Path) -> bool:
    # Whoever clears a cache by the age of its files leaves half a folder.
    return all((folder / file).is_file() for file in _MODEL_FILES)


@contextlib.contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """Wait until no other process builds this folder.

    The kernel lets go of the lock when its process dies, so it cannot go stale.
    """
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_in_place(folder: Path, build: Callable[[Path], None], shown: str) -> None:
    """Build beside `folder` and rename; only for the one who holds the lock."""
    unfinished = f"{folder.name}.unfinished-"
    for leftover in folder.parent.glob(f"{unfinished}*"):
        shutil.rmtree(leftover)
    if folder.exists():
        shutil.rmtree(folder)
    log_event(logging.INFO, "model-build-started", model=shown, folder=str(folder.parent))
    building = Path(tempfile.mkdtemp(prefix=unfinished, dir=folder.parent))
    try:
        build(building)
        building.chmod(0o755)  # mkdtemp keeps others out, who may share the cache.
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
