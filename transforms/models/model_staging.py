"""Write a model to a folder or to gs://, as a whole: nobody finds half a model there.

    DEST/saved_model.pb, variables/, assets/ ...   the model's own files, as they were
    DEST/serving/                                  another SavedModel, for other engines
    DEST/model.json                                what is known of the model

A local folder is filled under another name and renamed. Of a bucket, saved_model.pb is written
last but one, because without it nothing there counts as a model, and model.json last; while it is
being written, unfinished.json lists what may be replaced after a staging that broke off.
"""

import fcntl
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import IO

from transforms.errors import JobError, RequestError
from transforms.models.model_description import DESCRIPTION_FILE
from transforms.storage.file_listing import is_http, is_remote, local_path

SERVING_FOLDER = "serving"

_MODEL = "saved_model.pb"

#: What TensorFlow, Keras and TF Hub put into the folder of a SavedModel.
_PARTS = (
    *(_MODEL, "variables", "assets", "assets.extra"),
    *("fingerprint.pb", "keras_metadata.pb", "tfhub_module.pb"),
)

#: Those of them whose names are the same in every model.
_FIXED_FILE = re.compile(
    r"(saved_model|fingerprint|keras_metadata|tfhub_module)\.pb"
    r"|variables/variables\.(index|data-\d+-of-\d+)"
    r"|assets\.extra/tf_serving_warmup_requests"
)
_FOLDERS = ("variables/", "assets/", "assets.extra/")

#: The key of model.json, and of unfinished.json, with the paths of what stage-model wrote.
FILES_KEY = "files"

_UNFINISHED = "unfinished.json"


def model_files(folder: str) -> dict[str, Path]:
    """Return the files of the SavedModel in a local folder, by their path in it.

    `model.json`, `serving` and whatever else lies there are not among them.

    Example:
        >>> sorted(model_files("models/mobilenet"))  # doctest: +SKIP
        ['saved_model.pb', 'variables/variables.data-00000-of-00001', 'variables/variables.index']
    """
    return {name: path for name, path in files_below(folder).items() if _part(name) in _PARTS}


def files_below(folder: str) -> dict[str, Path]:
    """Return every file below a local folder, by its path in it."""
    root = Path(folder)
    files = (Path(parent) / name for parent, _, names in os.walk(root) for name in names)
    return {path.relative_to(root).as_posix(): path for path in sorted(files)}


def check_destination(destination: str, *, overwrite: bool) -> None:
    """Check that a model may be written there; write nothing.

    What is replaced is deleted, so every file there must be known to be part of a model: it is in
    the list `files` of model.json, or, where that has none, it is a file that TensorFlow writes
    beside a saved_model.pb, or an asset that saved_model.pb names.

    Raises:
        RequestError: it holds a model and `overwrite` is false, or something that is no part of
            a model, or it is no place for a folder.
    """
    scheme, _, rest = destination.partition("://")
    special = sorted(set(destination) & set("*?[#"))
    if destination.strip() in ("", "file://"):
        raise RequestError("DEST is empty; give a folder or gs://bucket/folder")
    if is_http(destination) or (is_remote(destination) and special):
        raise RequestError(f"a model cannot be written to {destination}; give a folder or gs://")
    if is_remote(destination) and (
        not rest.strip("/") or (scheme in ("gs", "s3") and rest.startswith("/"))
    ):
        raise RequestError(f"{destination} names no bucket; give {scheme}://bucket/folder")
    if os.path.isfile(local_path(destination)) and not is_remote(destination):
        raise RequestError(f"{destination} is a file; give a folder")
    present = _present(destination)
    known = _known_files(destination, present)
    foreign = sorted(name for name in present if name not in known)
    if foreign:
        raise RequestError(
            f"{destination} holds {foreign[0]}, which is no part of a model that was written "
            "there; give a new or an empty folder"
        )
    if present and not overwrite:
        what = "a model" if DESCRIPTION_FILE in present else "a part of a model"
        raise RequestError(f"{destination} already holds {what}; use --overwrite or another folder")


def write_model(files: Mapping[str, Path], destination: str) -> None:
    """Copy the files below the destination, in place of the model that is there.

    Args:
        files: local ones, by their path below the destination; with saved_model.pb and model.json.
        destination: see `check_destination`. What reads a model in a bucket while it is
            replaced finds none.

    Raises:
        JobError: a file could not be written.
    """
    # The clients of the storages raise errors of many kinds.
    kinds: type[Exception] = Exception if is_remote(destination) else OSError
    try:
        if is_remote(destination):
            _write_objects(files, destination.rstrip("/"))
        else:
            _write_folder(files, os.path.realpath(local_path(destination)))
    except kinds as error:
        raise JobError(
            f"the model cannot be written to {destination}: {' '.join(str(error).split())}; check "
            "that this user may write there and that there is room"
        ) from error


def _part(name: str) -> str:
    return name.partition("/")[0]


def _known_files(destination: str, present: Collection[str]) -> set[str]:
    """Return the paths that may be replaced, if they are there."""
    known = {f"{parent}{name}" for parent in ("", f"{SERVING_FOLDER}/") for name in _FOLDERS}
    known.add(f"{SERVING_FOLDER}/")
    if _UNFINISHED in present:
        listed = _listed_files(destination, _UNFINISHED)
        return known if listed is None else known | {_UNFINISHED} | listed
    if _MODEL not in present:
        return known
    if DESCRIPTION_FILE in present:
        listed = _listed_files(destination, DESCRIPTION_FILE)
        if listed is not None:
            return known | listed
    known.add(DESCRIPTION_FILE)
    for parent in ("", f"{SERVING_FOLDER}/"):
        if f"{parent}{_MODEL}" in present:
            names = {name.removeprefix(parent) for name in present if name.startswith(parent)}
            known |= {f"{parent}{name}" for name in names if _FIXED_FILE.fullmatch(name)}
            if any(name.startswith("assets/") for name in names):
                model = _read(destination, f"{parent}{_MODEL}")
                known |= {f"{parent}assets/{name}" for name in _asset_names(model)}
    return known


def _listed_files(destination: str, name: str) -> set[str] | None:
    """Return what a JSON file lists, or None where it has no list."""
    try:
        facts = json.loads(_read(destination, name))
    except ValueError:
        return None
    listed = facts.get(FILES_KEY) if isinstance(facts, dict) else None
    return {str(path) for path in listed} if isinstance(listed, list) else None


def _asset_names(model: bytes) -> set[str]:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString(model)
    except DecodeError:
        return set()
    return {asset.filename for graph in saved_model.meta_graphs for asset in graph.asset_file_def}


def _read(destination: str, name: str) -> bytes:
    if not is_remote(destination):
        try:
            return (Path(local_path(destination)) / name).read_bytes()
        except OSError as error:
            raise RequestError(f"{destination}/{name} cannot be read: {error.strerror}") from error
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    target = f"{destination.rstrip('/')}/{name}"
    try:
        with FileSystems.open(target, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            content: bytes = file.read()
            return content
    except Exception as error:  # The clients of the storages raise errors of many kinds.
        reason = " ".join(str(error).split())
        raise RequestError(f"{target} cannot be read: {reason}; check these credentials") from error


def _present(destination: str) -> list[str]:
    """Return the paths of what is there, below the destination; of an empty folder with a `/`."""
    if not is_remote(destination):
        try:
            return list(_walk(local_path(destination)))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RequestError(f"{destination} cannot be read: {error.strerror}") from error
    from apache_beam.io.filesystems import FileSystems

    start = destination.rstrip("/") + "/"
    try:
        found = FileSystems.match([f"{start}**"])[0].metadata_list
    except Exception as error:  # The clients of the storages raise errors of many kinds.
        reason = " ".join(str(error).split())
        raise RequestError(
            f"{destination} cannot be used: {reason}; check the path and these credentials"
        ) from error
    # The console of a bucket makes an object of no name for a folder.
    return [file.path.removeprefix(start) for file in found if file.path != start]


def _walk(root: str) -> Iterable[str]:
    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(root, onerror=fail):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in (*names, *links):
            yield Path(parent, name).relative_to(root).as_posix()
        if not names and not folders and parent != root:
            yield f"{Path(parent).relative_to(root).as_posix()}/"


def _write_folder(files: Mapping[str, Path], folder: str) -> None:
    parent, name = os.path.split(folder)
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.staging-", dir=parent) as workplace:
        handle = os.open(workplace, os.O_RDONLY)
        try:
            _lock(handle)
            _fill_folder(files, folder, workplace)
        finally:
            os.close(handle)
    _remove_stale_copies(parent, name)


def _lock(handle: int) -> bool:
    """Take the lock that tells a staging under way from one that was killed."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # Held by another process, or a file system without locks.
        return False
    return True


def _remove_stale_copies(parent: str, name: str) -> None:
    """Remove what killed stagings to the same folder left; a former model may be in it."""
    stale = re.compile(re.escape(f".{name}.staging-") + "[a-z0-9_]{8}")
    try:
        entries = list(os.scandir(parent))
    except PermissionError:  # A folder that may be written to and not listed.
        return
    for entry in entries:
        if not stale.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            handle = os.open(entry.path, os.O_RDONLY)
        except OSError:  # Of another user, or gone by now.
            continue
        try:
            if _lock(handle) and set(os.listdir(entry.path)) <= {"copy", "former"}:
                shutil.rmtree(entry.path, ignore_errors=True)
        except FileNotFoundError:  # Its own process has just removed it.
            continue
        finally:
            os.close(handle)


def _fill_folder(files: Mapping[str, Path], folder: str, workplace: str) -> None:
    copy, former = Path(workplace) / "copy", Path(workplace) / "former"
    for path, source in files.items():
        target = copy / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    if os.path.isdir(folder):
        # No two folders can change places at once; until the next line it is simply missing.
        os.rename(folder, former)
    try:
        os.rename(copy, folder)
    except OSError:
        if former.exists():
            os.rename(former, folder)
        raise


def _write_objects(files: Mapping[str, Path], prefix: str) -> None:
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    def last_ones_last(name: str) -> int:
        return (_MODEL, DESCRIPTION_FILE).index(name) if name in (_MODEL, DESCRIPTION_FILE) else -1

    def write(name: str, content: IO[bytes]) -> None:
        target = f"{prefix}/{name}"
        with FileSystems.create(target, compression_type=CompressionTypes.UNCOMPRESSED) as copy:
            shutil.copyfileobj(content, copy, 1 << 20)

    former = [name for name in _present(prefix) if name != _UNFINISHED]
    listed = {FILES_KEY: sorted({*former, *files})}
    write(_UNFINISHED, io.BytesIO(json.dumps(listed, indent=2).encode()))
    for name in sorted(former, key=last_ones_last, reverse=True):
        FileSystems.delete([f"{prefix}/{name}"])
    for name in sorted(files, key=last_ones_last):
        with open(files[name], "rb") as source:
            write(name, source)
    FileSystems.delete([f"{prefix}/{_UNFINISHED}"])
