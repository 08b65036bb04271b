"""Unpack a .tar or .tar.gz that a stranger made: files and folders only, and within limits."""

import gzip
import shutil
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")

_BLOCK = 1 << 20
_HEADER = tarfile.BLOCKSIZE

#: The longest header that a real archive has is a path of a few kilobytes. `tarfile` reads a
#: header into memory as a whole, however long it claims to be.
_LONGEST_READ = 16 * _BLOCK


class BadArchive(Exception):
    """The archive is corrupt, too large, or holds what a model does not need."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may grow to when it is unpacked."""

    max_bytes: int = 8 << 30
    """Of all files together. The largest image models of TF Hub take about 4 GB."""
    max_files: int = 10_000


def is_archive(path: str) -> bool:
    """Return whether the name ends as that of an archive: .tar, .tgz or .tar.gz.

    Example:
        >>> is_archive("model.tar.gz"), is_archive("model.zip")
        (True, False)
    """
    return path.lower().endswith(ARCHIVE_SUFFIXES)


def unpack(archive: str | Path, folder: str | Path, limits: ArchiveLimits | None = None) -> None:
    """Unpack `archive` into the new folder `folder`, as a whole or not at all.

    Only regular files and folders are made, with the rights of new files. Nothing is written
    outside `folder`: a path that is absolute or holds "..", a link, a device, a file that comes
    twice, and anything over the limits makes the whole archive unusable, as does a damaged
    byte anywhere in it. The files appear beside `folder` first, and are renamed at the end.

    Args:
        archive: a .tar or a gzipped one, by its contents and not by its name.
        folder: must not exist, or be empty; its parent exists.
        limits: on the unpacked files; by default 8 GiB in 10,000 files.

    Raises:
        BadArchive: what is wrong with the archive, in one line.
        OSError: it cannot be read, or the folder not written.

    Example:
        >>> unpack("model.tar.gz", "model")  # doctest: +SKIP
    """
    folder = Path(folder)
    limits = limits or ArchiveLimits()
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.unpacking-", dir=folder.parent))
    try:
        with open(archive, "rb") as file:
            _unpack_stream(file, unfinished, limits)
        unfinished.chmod(0o755)  # mkdtemp keeps others out, who may share the cache.
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _unpack_stream(file: BinaryIO, folder: Path, limits: ArchiveLimits) -> None:
    start = file.read(2)
    file.seek(0)
    packed: BinaryIO = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if start == b"\x1f\x8b" else file
    # Headers and padding take a few blocks a file.
    bounded = _BoundedReader(packed, limits.max_bytes + 8 * _HEADER * (limits.max_files + 1))
    try:
        with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:") as members:
            _unpack_members(members, folder, limits)
            _check_end(bounded, members.offset)
    except EOFError as error:
        raise BadArchive("it ends too early") from error
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile) as error:
        raise BadArchive(f"it is corrupt, or no .tar or .tar.gz: {error}") from error


def _unpack_members(members: tarfile.TarFile, folder: Path, limits: ArchiveLimits) -> None:
    count = total = 0
    for member in members:
        count += 1
        if count > limits.max_files:
            raise BadArchive(f"it holds more than {limits.max_files} files")
        target = folder / safe_path(member.name)
        if member.isdir():
            _make_folder(target, member.name)
            continue
        if not member.isreg():
            kind = "a link" if member.issym() or member.islnk() else "no regular file"
            raise BadArchive(f"{member.name!r} in it is {kind}; a model holds files and folders")
        total += member.size
        if total > limits.max_bytes:
            raise BadArchive(f"it unpacks to more than {limits.max_bytes} bytes")
        _make_folder(target.parent, member.name)
        content = members.extractfile(member)
        assert content is not None  # It is a regular file.
        try:
            with open(target, "xb") as file:
                shutil.copyfileobj(content, file, _BLOCK)
        except (FileExistsError, IsADirectoryError) as error:
            raise BadArchive(f"{member.name!r} is in it twice") from error
    if not count:
        raise BadArchive("it is empty")


def safe_path(name: str) -> PurePosixPath:
    """Return the relative path that a stranger has chosen.

    Raises:
        BadArchive: it leads, or might lead, out of the folder it is relative to.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        raise BadArchive(f"{name!r} in it leads out of the folder")
    return path


def _make_folder(folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise BadArchive(f"{name!r} in it is both a file and a folder") from error


def _check_end(reader: "_BoundedReader", offset: int) -> None:
    """Read on to the end: `tarfile` stops at a damaged header, and gzip's checksum comes last."""
    reader.seek(offset)
    while block := reader.read(_HEADER):
        if block.strip(b"\0"):
            raise BadArchive("it is corrupt: what follows its last file is no end of an archive")


class _BoundedReader:
    """What `tarfile` needs of a file: forwards only, and up to a limit.

    A small archive can claim to be huge. And `tarfile` steps back by a byte now and then, for
    which a gzip file would be unpacked again from its start.
    """

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file, self._max_bytes = file, max_bytes
        self._wanted = self._reached = 0
        self._tail = b""

    def seek(self, offset: int) -> int:
        self._wanted = offset
        return offset

    def tell(self) -> int:
        return self._wanted

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise BadArchive(f"it is corrupt: a header in it claims {size} bytes")
        if self._wanted + size > self._max_bytes:
            raise BadArchive(f"it unpacks to more than {self._max_bytes} bytes")
        while self._reached < self._wanted:
            if not self._read_on(min(self._wanted - self._reached, _BLOCK)):
                return b""
        behind = self._reached - self._wanted
        if behind > len(self._tail):
            raise BadArchive("it is corrupt: a header in it points backwards")
        data = self._tail[len(self._tail) - behind :][:size]
        if len(data) < size:
            data += self._read_on(size - len(data))
        self._wanted += len(data)
        return data

    def _read_on(self, size: int) -> bytes:
        data = self._file.read(size)
        self._reached += len(data)
        self._tail = (data if len(data) >= _HEADER else self._tail + data)[-_HEADER:]
        return data
