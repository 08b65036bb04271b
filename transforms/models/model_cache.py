"""The folders of downloaded models, shared with tensorflow_hub and with other processes.

    TFHUB_CACHE_DIR/<sha1 of the handle>                     the model, as tensorflow_hub keeps it
    TFHUB_CACHE_DIR/<sha1 of the handle>.descriptor.txt      which one it is, and its files
    TFHUB_CACHE_DIR/<sha1 of the handle>.embed-images.lock   held while it is downloaded

A model that tensorflow_hub has downloaded is found here, and the other way round. Its lock files
are neither looked at nor made: one that a killed process left makes all others wait for ten
minutes (https://github.com/tensorflow/hub/issues/579). Two downloads at once do no harm, because
each goes to a folder of its own, which is renamed when it is complete.
"""

import contextlib
import datetime
import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from transforms.errors import UnusableModel

#: Seconds for which another process may hold the lock and write nothing. A live download gives
#: up by itself before that.
PATIENCE = 240.0

_MODEL = "saved_model.pb"
_INDEX = "variables/variables.index"
_SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")

#: The operations that a graph reads its variables with.
_VARIABLE_OPERATIONS = (b"VarHandleOp", b"VariableV2")


def cache_folder(key: str) -> Path:
    """Return where the model of a handle is kept: in TFHUB_CACHE_DIR, or the temporary folder.

    Example:
        >>> cache_folder("https://tfhub.dev/google/yamnet/1").name
        '9616fd04ec2360621642ef9455b84f4b668e219e'
    """
    root = os.environ.get("TFHUB_CACHE_DIR") or os.path.join(tempfile.gettempdir(), "tfhub_modules")
    name = hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()
    return Path(root).expanduser().absolute() / name


def missing_file(folder: Path) -> str | None:
    """Return a file that the SavedModel in `folder` needs and does not have; None if it has all.

    What clears a cache by the age of its files leaves half a model
    (https://github.com/tensorflow/hub/issues/850). The files and their sizes are known where this
    module has put the model there. Otherwise a graph with variables needs an index of them and
    every shard that the index's neighbours count.
    """
    listed = _listed_files(folder)
    for name, size in listed.items():
        try:
            found = (folder / name).stat().st_size
        except OSError:
            return name
        if found != size:
            return f"{name} (it has {found} of {size} bytes)"
    if listed:
        return None
    if not (folder / _MODEL).is_file():
        return _MODEL
    index = folder / _INDEX
    shards = [
        match
        for entry in (index.parent.iterdir() if index.parent.is_dir() else ())
        if (match := _SHARD.fullmatch(entry.name))
    ]
    if not index.is_file():
        needed = shards or _has_variables(folder / _MODEL)
        return _INDEX if needed else None
    total = int(shards[0][2]) if shards else 1
    present = {int(shard[1]) for shard in shards}
    absent = sorted(set(range(total)) - present)
    return f"variables/variables.data-{absent[0]:05}-of-{total:05}" if absent else None


def _has_variables(model: Path) -> bool:
    graph = model.read_bytes()
    return any(operation in graph for operation in _VARIABLE_OPERATIONS)


def keep(key: str, handle: str, fetch: Callable[[Path], Path], patience: float = PATIENCE) -> str:
    """Return the folder of a model, which `fetch` brings if the cache does not hold all of it.

    Processes that ask at the same time wait for the one that fetches. Whatever a killed process
    left behind does not matter: the system lets go of its lock, and its folder was never in
    place. Where a process holds the lock and writes nothing for `patience` seconds, or the file
    system knows no locks, the model is fetched without.

    Args:
        key: of the cache, see `cache_folder`.
        handle: for messages and for the descriptor.
        fetch: puts the model into the existing empty folder that it is given, and returns the
            folder in it that holds saved_model.pb.
        patience: in seconds.

    Raises:
        UnusableModel: `fetch` failed, or the cache cannot be written.
    """
    folder = cache_folder(key)
    if missing_file(folder) is None:
        return str(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(folder, patience) as alone:
            if missing_file(folder) is None:
                return str(folder)
            if alone:
                for leftover in _unfinished(folder):
                    shutil.rmtree(leftover, ignore_errors=True)
            _bring(folder, handle, fetch)
    except OSError as error:
        raise UnusableModel(
            f"{handle} cannot be kept in {folder.parent}: {error}; set TFHUB_CACHE_DIR to a "
            "folder that can be written and has room for the model twice"
        ) from error
    return str(folder)


def _bring(folder: Path, handle: str, fetch: Callable[[Path], Path]) -> None:
    workplace = Path(tempfile.mkdtemp(prefix=_prefix(folder), suffix=".tmp", dir=folder.parent))
    try:
        try:
            model = fetch(workplace)
        except UnusableModel as error:
            missing = missing_file(folder)
            if folder.is_dir() and missing:
                raise UnusableModel(
                    f"{folder}, where {handle} was kept, has lost {missing}, and it cannot be "
                    f"fetched again: {error}"
                ) from error
            raise
        _write_descriptor(folder, handle, model)
        if folder.is_dir():
            # No two folders can change places at once; until the next line it is simply missing.
            folder.rename(workplace / "damaged")
        try:
            model.rename(folder)
        except OSError as error:
            # tensorflow_hub, or a process that waited long enough, was quicker.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or missing_file(folder):
                raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _write_descriptor(folder: Path, handle: str, model: Path) -> None:
    """Write what tensorflow_hub writes, and a line for each file."""
    sizes = {
        file.relative_to(model).as_posix(): file.stat().st_size
        for file in sorted(model.rglob("*"))
        if file.is_file()
    }
    lines = [
        f"Module: {handle}",
        f"Download Time: {datetime.datetime.now()}",
        f"Downloader Hostname: {socket.gethostname()} (PID:{os.getpid()})",
        *(f"File: {size} {name}" for name, size in sizes.items()),
    ]
    unfinished = model.parent / f"{folder.name}.descriptor"
    unfinished.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    unfinished.replace(_descriptor(folder))


def _listed_files(folder: Path) -> dict[str, int]:
    try:
        text = _descriptor(folder).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return {}
    listed = re.findall(r"^File: (\d+) (.+)$", text, re.MULTILINE)
    return {name: int(size) for size, name in listed}


def _descriptor(folder: Path) -> Path:
    return Path(f"{folder}.descriptor.txt")  # Also of ".", which has no name.


@contextlib.contextmanager
def _only_one(folder: Path, patience: float) -> Iterator[bool]:
    """Wait until no other process fetches this model, or none that gets on.

    Gives whether this process holds the lock.
    """
    with open(folder.with_name(f"{folder.name}.embed-images.lock"), "w") as lock:
        written, written_at = -1, time.monotonic()
        while (alone := _take_lock(lock.fileno())) is False:
            now_written = sum(_bytes_in(unfinished) for unfinished in _unfinished(folder))
            if now_written != written:
                written, written_at = now_written, time.monotonic()
            if time.monotonic() - written_at > patience or missing_file(folder) is None:
                break
            time.sleep(0.1)
        yield bool(alone)


def _take_lock(descriptor: int) -> bool | None:
    """Return whether the lock could be had; None where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            return None
        raise
    return True


def _prefix(folder: Path) -> str:
    return f"{folder.name}.embed-images-"


def _unfinished(folder: Path) -> list[Path]:
    return list(folder.parent.glob(f"{_prefix(folder)}*.tmp"))


def _bytes_in(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # Renamed or removed meanwhile.
                total += os.stat(os.path.join(parent, name)).st_size
    return total
