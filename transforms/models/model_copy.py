"""Copy a model from storage such as gs:// to a local folder, through Beam's FileSystems.

`tf.io.gfile` and `tensorflow_hub` could read gs:// themselves, but with credentials of their own
and past STORAGE_EMULATOR_HOST.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from transforms.errors import UnusableModel
from transforms.models.model_staging import SERVING_FOLDER
from transforms.models.safe_archive import ArchiveLimits, BadArchive, is_archive, safe_path
from transforms.records import ImageRef
from transforms.storage.file_listing import ListedFile, list_files, storage_path

_BLOCK = 1 << 20


def list_model(location: str, limits: ArchiveLimits | None = None) -> list[ImageRef]:
    """Return the files of the model at `location`, with their sizes and times of change.

    Args:
        location: a folder that holds saved_model.pb, or an archive; in any storage that Beam's
            FileSystems reads, or local.
        limits: on the files.

    Raises:
        UnusableModel: there is no model, or it cannot be read, or it is larger than the limits.
    """
    from apache_beam.io.filesystems import FileSystems

    limits = limits or ArchiveLimits()
    try:
        if not is_archive(location) and not FileSystems.exists(
            storage_path(f"{location.rstrip('/')}/saved_model.pb")
        ):
            raise UnusableModel(
                f"there is no saved_model.pb in {location}, or this user may not see it; give the "
                f"folder that holds it (gcloud storage ls -r '{location.rstrip('/')}/**' "
                "lists what is there)"
            )
        files = [file.ref for file in list_files(location) if not _is_for_serving(location, file)]
    except UnusableModel:
        raise
    except Exception as error:  # The clients of the storages raise errors of many kinds.
        raise _unreadable(location, error) from error
    size = sum(file.size_bytes or 0 for file in files)
    if size > limits.max_bytes or len(files) > limits.max_files:
        raise UnusableModel(
            f"{location} holds {len(files)} files of {size} bytes, which is more than a model has "
            f"({limits.max_files} files, {limits.max_bytes} bytes); give the folder of the model "
            "alone"
        )
    return files


def _is_for_serving(location: str, file: ListedFile) -> bool:
    """Whether it is of the second SavedModel that `stage-model --serving` puts into a model."""
    below = storage_path(file.ref.uri).removeprefix(storage_path(location).rstrip("/") + "/")
    return below.startswith(f"{SERVING_FOLDER}/")


def copy_files(location: str, files: Sequence[ImageRef], folder: Path) -> None:
    """Copy the files of `list_model(location)` below `folder`; an archive stays packed.

    Raises:
        UnusableModel: a file cannot be read, or has changed since it was listed.
        OSError: the folder cannot be written.
    """
    start = storage_path(location).rstrip("/") + "/"
    for file in files:
        source = storage_path(file.uri)
        name = source.removeprefix(start) if source.startswith(start) else Path(source).name
        try:
            target = folder / safe_path(name)
        except BadArchive as error:
            raise UnusableModel(f"{location} cannot be copied: {error}") from error
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as copy:
            for block in _blocks(source):
                copy.write(block)
        copied = target.stat().st_size
        if file.size_bytes is not None and copied != file.size_bytes:
            raise UnusableModel(
                f"{file.uri} has changed while it was copied ({copied} of {file.size_bytes} "
                "bytes); run again"
            )


def _blocks(source: str) -> Iterator[bytes]:
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    try:
        # A .tar.gz would be unzipped on the way.
        with FileSystems.open(source, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            while block := file.read(_BLOCK):
                yield block
    except Exception as error:
        raise _unreadable(source, error) from error


def _unreadable(location: str, error: Exception) -> UnusableModel:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UnusableModel(
        f"{location} cannot be read: {reason}; check the path and that these credentials may "
        "read it, or give a local folder"
    )
