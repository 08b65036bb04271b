"""From the handle of a model to the local folder that holds it.

Nothing here imports TensorFlow, and what is cached is found in milliseconds. `tensorflow_hub`'s
own resolver is not used: it takes a folder with half a model for a model
(https://github.com/tensorflow/hub/issues/850), waits ten minutes for the lock of a dead process
(https://github.com/tensorflow/hub/issues/579), and knows neither time-outs nor size limits. Its
cache and its variables TFHUB_CACHE_DIR, TFHUB_MODEL_LOAD_FORMAT and TFHUB_DOWNLOAD_PROGRESS are
shared (https://www.tensorflow.org/hub/caching).
"""

import os
from collections.abc import Callable
from pathlib import Path

from transforms.errors import UnusableModel
from transforms.models.keras_model import keras_model_folder
from transforms.models.model_cache import cache_folder, keep, missing_file
from transforms.models.model_copy import copy_files, list_model
from transforms.models.model_download import download_archive, uncompressed_location
from transforms.models.model_handles import HubAddress, hub_address
from transforms.models.safe_archive import BadArchive, is_archive, unpack
from transforms.models.untrained_model import UNTRAINED_HANDLE, untrained_model_folder
from transforms.storage.file_listing import is_remote, local_path

_MODEL = "saved_model.pb"


def resolve_model(handle: str) -> str:
    """Return the local folder of the model that `handle` names, all of its files in place.

    A handle is one of
    - an address on tfhub.dev or Kaggle in any of the spellings of `hub_address`, or another
      http(s) address of TF Hub's protocol (https://www.tensorflow.org/hub/hosting), downloaded
      once to TFHUB_CACHE_DIR;
    - a folder or a .tar.gz on gs:// (or another storage that Beam reads), copied there once for
      each state of its files;
    - a local folder with a SavedModel, or a .tar.gz, .tgz or .tar of one;
    - `keras:inception_resnet_v2?weights=FILE`, converted once; see `transforms.models.keras_model`;
    - `untrained:inception_resnet_v2`, which is built once.

    Raises:
        UnusableModel: the handle leads to no model; the message says what was found and what
            to try.

    Example:
        >>> resolve_model("untrained:inception_resnet_v2") # doctest: +SKIP
    """
    scheme, colon, _ = handle.partition(":")
    if colon and scheme in _SCHEMES:
        return _SCHEMES[scheme](handle)
    if is_remote(handle) and not handle.lower().startswith(("http://", "https://")):
        return _copied(handle)
    if not os.path.exists(handle):
        address = hub_address(handle)
        if address:
            return _downloaded(address)
    return _local(handle)


def _untrained(handle: str) -> str:
    if handle != UNTRAINED_HANDLE:
        raise UnusableModel(f"there is no model {handle!r}; did you mean {UNTRAINED_HANDLE!r}?")
    return untrained_model_folder()


#: What makes the model of a handle such as `untrained:...`, given the whole handle.
_SCHEMES: dict[str, Callable[[str], str]] = {
    "keras": keras_model_folder,
    "untrained": _untrained,
}


def _downloaded(address: HubAddress) -> str:
    if _load_format() == "UNCOMPRESSED":
        return _copied(uncompressed_location(address))
    for spelling in (address.url, *address.spellings):
        folder = cache_folder(spelling)
        if missing_file(folder) is None:
            return str(folder)
    if address.kagglehub_handle:
        cached = _kagglehub_folder(address.kagglehub_handle)
        if missing_file(cached) is None:
            return str(cached)

    def fetch(workplace: Path) -> Path:
        archive = workplace / "archive"
        download_archive(address, archive)
        return _unpacked(address.url, archive, workplace)

    return keep(address.url, address.url, fetch)


def _load_format() -> str:
    name = os.environ.get("TFHUB_MODEL_LOAD_FORMAT") or "AUTO"
    if name not in ("AUTO", "COMPRESSED", "UNCOMPRESSED"):
        raise UnusableModel(
            f"TFHUB_MODEL_LOAD_FORMAT is {name!r}; use AUTO, COMPRESSED or UNCOMPRESSED"
        )
    return name


def _kagglehub_folder(kagglehub_handle: str) -> Path:
    """Where kagglehub keeps the model; see https://github.com/Kaggle/kagglehub."""
    root = os.environ.get("KAGGLEHUB_CACHE") or "~/.cache/kagglehub"
    return Path(root).expanduser() / "models" / kagglehub_handle


def _copied(location: str) -> str:
    files = list_model(location)
    # A model that was saved anew at the same place is another model.
    state = [f"{file.uri}\t{file.size_bytes}\t{file.updated}" for file in files]

    def fetch(workplace: Path) -> Path:
        copy = workplace / "copy"
        copy.mkdir()
        copy_files(location, files, copy)
        if is_archive(location):
            return _unpacked(location, next(copy.iterdir()), workplace)
        _check_model(copy, location)
        return copy

    return keep("\n".join([location, *state]), location, fetch)


def _local(handle: str) -> str:
    path = local_path(handle) if handle.startswith(("file://", "~")) else handle
    folder = Path(path)
    if not handle or not os.path.exists(path):
        raise UnusableModel(
            f"the model {handle!r} is no folder or archive that exists, no address such as "
            f"https://tfhub.dev/google/..., and not {UNTRAINED_HANDLE!r}"
        )
    if folder.is_file():
        if is_archive(folder.name):
            return _unpacked_once(folder)
        hint = (
            f"{folder.parent}"
            if folder.name == _MODEL
            else "the folder of a SavedModel, or a .tar.gz of it"
        )
        raise UnusableModel(f"the model {handle} is a file; give {hint}")
    models = _models_in(folder)
    if models and models[0] != folder:
        raise UnusableModel(f"{handle} holds no {_MODEL}, but {models[0]} does; give that one")
    _check_model(folder, handle)
    return path


def _unpacked_once(archive: Path) -> str:
    status = archive.stat()
    key = f"{archive.absolute()}\n{status.st_size}\n{status.st_mtime_ns}"

    def fetch(workplace: Path) -> Path:
        return _unpacked(str(archive), archive, workplace)

    return keep(key, str(archive), fetch)


def _unpacked(source: str, archive: Path, workplace: Path) -> Path:
    """Unpack to `workplace`, and return the folder of the model in it."""
    folder = workplace / "unpacked"
    try:
        unpack(archive, folder)
    except BadArchive as error:
        raise UnusableModel(
            f"the archive {source} cannot be used: {error}; fetch or pack it again "
            "(tar -czf MODEL.tar.gz -C MODEL .)"
        ) from error
    models = _models_in(folder)
    if len(models) > 1:
        names = " and ".join(str(model.relative_to(folder)) for model in models[:2])
        raise UnusableModel(f"the archive {source} holds several models: {names}; give one")
    model = models[0] if models else folder
    _check_model(model, f"the archive {source}")
    return model


def _models_in(folder: Path) -> list[Path]:
    """Return the folder itself if it holds a SavedModel, or else those just below that do."""
    if (folder / _MODEL).is_file():
        return [folder]
    return sorted(file.parent for file in folder.glob(f"*/{_MODEL}"))


def _check_model(folder: Path, shown: str) -> None:
    missing = missing_file(folder)
    if missing == _MODEL:
        entries = sorted(entry.name for entry in folder.iterdir())
        names = entries[:5] + ["..."] * (len(entries) > 5)
        holds = f"it holds {', '.join(names)}" if names else "it is empty"
        raise UnusableModel(f"{shown} is no SavedModel, for it has no {_MODEL}; {holds}")
    if missing:
        raise UnusableModel(f"{shown} is no complete model: {missing} is missing; copy it again")
