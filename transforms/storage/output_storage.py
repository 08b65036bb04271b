"""Files and folders, local or in a bucket: what an output needs of a storage, and no more.

Beam, which is slow to import, is imported for URLs only.
"""

import os
import shutil
import uuid
from collections.abc import Sequence
from typing import BinaryIO

from transforms.storage.file_listing import is_remote

# A run.json has some thousands of bytes.
_SMALL_FILE_BYTES = 64 << 20


def open_file(path: str) -> BinaryIO:
    """Open a file for reading as it is stored, local or not.

    Raises:
        FileNotFoundError: there is no such local file.
    """
    if is_remote(path):
        from apache_beam.io.filesystem import CompressionTypes
        from apache_beam.io.filesystems import FileSystems

        file: BinaryIO = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        return file
    return open(path, "rb", buffering=1 << 20)


def read_small_file(path: str) -> bytes:
    """Return the content of a file as it is stored.

    Of an object in Cloud Storage in one request, through a client that all threads share: Beam's
    file takes three times as long to open.

    Raises:
        FileNotFoundError: there is no such local file; of remote ones other errors tell it.
    """
    if path.startswith("gs://"):
        from transforms.storage.cloud_storage import read_object

        return read_object(path, _SMALL_FILE_BYTES)[0]
    with open_file(path) as file:
        return file.read()


def write_text(path: str, text: str) -> None:
    """Write a small UTF-8 file as a whole or not at all; doing it again changes nothing.

    A local file is written under another name and renamed. The objects of a bucket appear
    only once they are written.
    """
    if is_remote(path):
        from apache_beam.io.filesystems import FileSystems

        with FileSystems.create(path, mime_type="text/plain") as file:
            file.write(text.encode())
        return
    temporary = f"{path}.tmp-{uuid.uuid4().hex}"
    try:
        with open(temporary, "x", encoding="utf-8", newline="") as local_file:
            local_file.write(text)
        os.replace(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def file_exists(path: str) -> bool:
    """Whether there is a file; False also where there is no folder for it."""
    if is_remote(path):
        from apache_beam.io.filesystems import FileSystems

        return bool(FileSystems.exists(path))
    return os.path.isfile(path)


def paths_starting_with(start: str) -> list[str]:
    """What is there in the folder of `start`; the paths of local folders end with a slash.

    In a bucket, which has no folders, also the objects below.
    """
    if is_remote(start):
        from apache_beam.io.filesystems import FileSystems

        return [file.path for file in FileSystems.match([f"{start}**"])[0].metadata_list]
    folder, name_start = os.path.split(start)
    try:
        with os.scandir(folder or ".") as entries:
            return [
                os.path.join(folder, entry.name)
                + ("/" if entry.is_dir(follow_symlinks=False) else "")
                for entry in entries
                if entry.name.startswith(name_start)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []


def delete(paths: Sequence[str]) -> None:
    """Delete files, and local folders, whose paths end with a slash."""
    if paths and is_remote(paths[0]):
        from apache_beam.io.filesystems import FileSystems

        FileSystems.delete(list(paths))
        return
    for path in paths:
        if path.endswith("/"):
            shutil.rmtree(path)
        else:
            os.remove(path)
