"""Write a model to a folder or to gs://, as a whole: nobody finds half a model there.

    DEST/saved_model.pb, variables/, assets/ ...   the model's own files, as they were
    DEST/serving/                                  another SavedModel, for other engines
    DEST/model.json                                what is known of the model

A local folder is filled under another name and renamed. Of a bucket, saved_model.pb is written
last but one, because without it nothing there counts as a model, and model.json last.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from transforms.errors import JobError, RequestError
from transforms.file_listing import is_http, is_remote, local_path
from transforms.model_description import DESCRIPTION_FILE

SERVING_FOLDER = "serving"

_MODEL = "saved_model.pb"

#: What TensorFlow, Keras and TF Hub put into the folder of a SavedModel.
_PARTS = (
    *(_MODEL, "variables", "assets", "assets.extra"),
    *("fingerprint.pb", "keras_metadata.pb", "tfhub_module.pb"),
)
_OURS = (*_PARTS, SERVING_FOLDER, DESCRIPTION_FILE)


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

    Raises:
        RequestError: it holds a model and `overwrite` is false, or something that is no part of
            a model, or it is no place for a folder.
    """
    special = sorted(set(destination) & set("*?[#"))
    if is_http(destination) or (is_remote(destination) and special):
        raise RequestError(f"a model cannot be written to {destination}; give a folder or gs://")
    if os.path.isfile(local_path(destination)) and not is_remote(destination):
        raise RequestError(f"{destination} is a file; give a folder")
    present = sorted({_part(name) for name in _present(destination)})
    foreign = [name for name in present if name not in _OURS]
    if foreign:
        raise RequestError(
            f"{destination} holds {foreign[0]}, which is no part of a model; give a new or an "
            "empty folder"
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


def _present(destination: str) -> list[str]:
    """Return the paths of the files that are there, below the destination."""
    if not is_remote(destination):
        folder = local_path(destination)
        try:
            return os.listdir(folder)
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


def _write_folder(files: Mapping[str, Path], folder: str) -> None:
    parent, name = os.path.split(folder)
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.staging-", dir=parent) as workplace:
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

    for name in sorted(_present(prefix), key=last_ones_last, reverse=True):
        FileSystems.delete([f"{prefix}/{name}"])
    for name in sorted(files, key=last_ones_last):
        target = f"{prefix}/{name}"
        with (
            FileSystems.create(target, compression_type=CompressionTypes.UNCOMPRESSED) as copy,
            open(files[name], "rb") as source,
        ):
            shutil.copyfileobj(source, copy, 1 << 20)
