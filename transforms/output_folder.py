"""The files of an output folder: their names, which of them are ours, how a run begins in one.

    OUT/embeddings-00000-of-00003.tfrecord               .tfrecord.gz with gzip
    OUT/schema.pbtxt
    OUT/dead_letters/dead_letters-00000-of-00001.jsonl
    OUT/run.json
    OUT/_SUCCESS                                         written last: the output is complete

A folder is a local path or a URL such as `gs://bucket/prefix`. Beam, which is slow to import,
is imported for URLs only.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Literal

from transforms.errors import RequestError

Compression = Literal["none", "gzip"]

EMBEDDINGS_SUFFIX: dict[Compression, str] = {
    "none": ".tfrecord",
    "gzip": ".tfrecord.gz",
}
DEAD_LETTERS_SUFFIX = ".jsonl"

_SCHEMA = "schema.pbtxt"
_RUN_REPORT = "run.json"
_SUCCESS = "_SUCCESS"
_EMBEDDINGS = "embeddings"
_DEAD_LETTERS = "dead_letters"
_HEX = "[0-9a-f]{32}"
_SHARD = r"(\d{5,})-of-(\d{5,})"
_EMBEDDING_SHARD = re.compile(_SHARD + r"(\.tfrecord(?:\.gz)?)")

# Everything that a run may leave behind: how the path goes on from the folder, and what has to
# follow up to its end; a folder ends with a slash. A file sink of Beam writes into
# "beam-temp-<prefix>-<uuid>" beside its shards before it renames them
# (apache_beam/io/filebasedsink.py, _create_temp_dir).
_OURS = (
    (_SUCCESS, rf"(\.tmp-{_HEX})?"),
    (_RUN_REPORT, rf"(\.tmp-{_HEX})?"),
    (_SCHEMA, rf"(\.tmp-{_HEX})?"),
    (f"{_EMBEDDINGS}-", _EMBEDDING_SHARD.pattern),
    (f"beam-temp-{_EMBEDDINGS}-", rf"{_HEX}/.*"),
    (f"{_DEAD_LETTERS}/{_DEAD_LETTERS}-", _SHARD + re.escape(DEAD_LETTERS_SUFFIX)),
    (f"{_DEAD_LETTERS}/beam-temp-{_DEAD_LETTERS}-", rf"{_HEX}/.*"),
    (".embed-images-probe-", _HEX),
    (f"{_DEAD_LETTERS}/.embed-images-probe-", _HEX),
)


def join(folder: str, *names: str) -> str:
    """The path of something in a folder, local or not.

    Example:
        >>> join("gs://bucket/out/", "run.json")
        'gs://bucket/out/run.json'
    """
    if _is_url(folder):
        return "/".join((folder.rstrip("/"), *names))
    return os.path.join(folder, *names)


def embeddings_prefix(folder: str) -> str:
    """What the path of every shard of embeddings begins with."""
    return join(folder, _EMBEDDINGS)


def dead_letters_prefix(folder: str) -> str:
    """What the path of every shard of dead letters begins with."""
    return join(folder, _DEAD_LETTERS, _DEAD_LETTERS)


def schema_path(folder: str) -> str:
    """Where the TensorFlow Metadata schema of the examples goes."""
    return join(folder, _SCHEMA)


def run_report_path(folder: str) -> str:
    """Where the account of the run goes."""
    return join(folder, _RUN_REPORT)


def success_path(folder: str) -> str:
    """Where the empty file goes that says the output is complete."""
    return join(folder, _SUCCESS)


def is_complete(folder: str) -> bool:
    """Whether a run has finished in this folder. False where there is no such folder."""
    success = success_path(folder)
    if _is_url(folder):
        from apache_beam.io.filesystems import FileSystems

        return bool(FileSystems.exists(success))
    return os.path.isfile(success)


def stale_files(folder: str) -> list[str]:
    """Everything in the folder that an earlier run may have written, `_SUCCESS` first.

    Only names that a run gives are listed, never another file: neither `embeddings.txt` nor
    `embeddings-2024.tfrecord`. The path of a local folder ends with a slash.
    """
    found = [
        path
        for start, rest in _OURS
        for path in _paths_starting_with(join(folder, start))
        if re.fullmatch(rest, path[len(join(folder, start)) :])
    ]
    return sorted(found, key=lambda path: (path != success_path(folder), path))


def is_output_file(folder: str, path: str) -> bool:
    """Whether a run may have written the file at `path` into the folder."""
    for start, rest in _OURS:
        beginning = join(folder, start)
        if path.startswith(beginning) and re.fullmatch(rest, path[len(beginning) :]):
            return True
    return False


def output_files(folder: str) -> list[str]:
    """The shards of embeddings and of dead letters that lie in the folder, in order."""
    return [
        path
        for path in stale_files(folder)
        if path.startswith((f"{embeddings_prefix(folder)}-", f"{dead_letters_prefix(folder)}-"))
    ]


def claim_output(folder: str, run_id: str) -> None:
    """Say in the folder which run is at work in it, so that an earlier one notices."""
    claim = {"status": "running", "run_id": run_id}
    write_text(run_report_path(folder), json.dumps(claim) + "\n")


def read_claim(folder: str) -> str | None:
    """The id of the run that last claimed or finished the folder, or None if none has."""
    try:
        with open_file(run_report_path(folder)) as file:
            claim = json.loads(file.read())
    except (OSError, ValueError):
        return None
    return claim.get("run_id") if isinstance(claim, dict) else None


def embedding_shards(folder: str, *, allow_incomplete: bool = False) -> list[str]:
    """The paths of the shards of embeddings, in the order of their numbers.

    Args:
        folder: the output folder of a run.
        allow_incomplete: list what is there, also without `_SUCCESS` and with shards missing.

    Raises:
        FileNotFoundError: the run is not complete, or a shard is missing.
        ValueError: the shards of two runs lie in the folder.
    """
    if allow_incomplete:
        return [path for *_, path in _shards(folder)]
    if not is_complete(folder):
        raise FileNotFoundError(
            f"{folder} holds no complete output: there is no {_SUCCESS} in it; run the job "
            "again, or pass allow_incomplete=True to read what is there"
        )
    return one_shard_set(folder)


def one_shard_set(folder: str) -> list[str]:
    """The paths of the shards of embeddings, which must be those of one run, and all of them.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: the shards of two runs lie in the folder.
    """
    shards = _shards(folder)
    kinds = {f"{total} {suffix} shards" for _, total, suffix, _ in shards}
    if len(kinds) > 1:
        raise ValueError(
            f"{folder} holds the shards of more than one run: {' and '.join(sorted(kinds))}; "
            "run the job again"
        )
    total = shards[0][1] if shards else 1
    missing = sorted(set(range(total)) - {number for number, *_ in shards})
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {total} shards of embeddings are missing from {folder}; the "
            f"first is number {missing[0]}"
        )
    return [path for *_, path in shards]


def _shards(folder: str) -> list[tuple[int, int, str, str]]:
    """Number, total, suffix and path of each shard of embeddings, in order."""
    start = f"{embeddings_prefix(folder)}-"
    return sorted(
        (int(match[1]), int(match[2]), match[3], path)
        for path in _paths_starting_with(start)
        if (match := _EMBEDDING_SHARD.fullmatch(path[len(start) :]))
    )


def check_output(folder: str, *, overwrite: bool) -> None:
    """Check that a run may write to the folder; create it if it is not there, delete nothing.

    Args:
        folder: a local path, or a URL such as `gs://bucket/prefix`.
        overwrite: also where the folder holds a complete output.

    Raises:
        RequestError: the folder holds a complete output and `overwrite` is false, or it
            cannot be created or written, or its name is one that Beam cannot write to.
    """
    special = sorted(set(folder) & set("*?["))
    if special:
        # Beam's file sinks look for their own temporary files with glob patterns, which
        # know no escape, so they would not find them.
        raise RequestError(
            f"the output folder {folder} has {' '.join(special)} in its name, which Beam takes "
            "for a pattern; use another folder"
        )
    with _storage_errors_as_request_errors(folder):
        if is_complete(folder) and not overwrite:
            raise RequestError(
                f"{folder} already holds a complete output (it has {_SUCCESS}); use --overwrite "
                "or another folder"
            )
        if not _is_url(folder):
            _refuse_what_is_in_the_way(folder)
            os.makedirs(folder, exist_ok=True)
        _try_to_write(folder)
        dead_letters = join(folder, _DEAD_LETTERS)
        if not _is_url(folder) and os.path.isdir(dead_letters):
            _try_to_write(dead_letters)


def prepare_output(folder: str, *, overwrite: bool) -> None:
    """Make the folder ready for a run: checked, and with no file of an earlier run in it.

    `_SUCCESS` goes first. A run that is killed at any moment therefore never leaves a
    `_SUCCESS` beside the shards of two runs. Files that are not ours stay.

    Args:
        folder: a local path, or a URL such as `gs://bucket/prefix`.
        overwrite: also where the folder holds a complete output.

    Raises:
        RequestError: as `check_output`, or a stale file cannot be deleted.
    """
    check_output(folder, overwrite=overwrite)
    with _storage_errors_as_request_errors(folder):
        stale = stale_files(folder)
        _delete([path for path in stale if path == success_path(folder)])
        _delete([path for path in stale if path != success_path(folder)])


def open_file(path: str) -> BinaryIO:
    """Open a file for reading as it is stored, local or not.

    Raises:
        FileNotFoundError: there is no such local file.
    """
    if _is_url(path):
        from apache_beam.io.filesystem import CompressionTypes
        from apache_beam.io.filesystems import FileSystems

        file: BinaryIO = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        return file
    return open(path, "rb", buffering=1 << 20)


def write_text(path: str, text: str) -> None:
    """Write a small UTF-8 file as a whole or not at all; doing it again changes nothing.

    A local file is written under another name and renamed. The objects of a bucket appear
    only once they are written.
    """
    if _is_url(path):
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


@contextmanager
def _storage_errors_as_request_errors(folder: str) -> Iterator[None]:
    # The clients of the clouds raise errors of many kinds.
    kinds: type[Exception] = Exception if _is_url(folder) else OSError
    try:
        yield
    except kinds as error:
        if isinstance(error, RequestError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise RequestError(
            f"cannot use the output folder {folder}: {reason}; use a folder that you may write to"
        ) from error


def _is_url(path: str) -> bool:
    return "://" in path


def _paths_starting_with(start: str) -> list[str]:
    """What is there in the folder of `start`; the paths of local folders end with a slash.

    In a bucket, which has no folders, also the objects below.
    """
    if _is_url(start):
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


def _delete(paths: Sequence[str]) -> None:
    if paths and _is_url(paths[0]):
        from apache_beam.io.filesystems import FileSystems

        FileSystems.delete(list(paths))
        return
    for path in paths:
        if path.endswith("/"):
            shutil.rmtree(path)
        else:
            os.remove(path)


def _refuse_what_is_in_the_way(folder: str) -> None:
    for path in (folder, join(folder, _DEAD_LETTERS)):
        if os.path.lexists(path) and not os.path.isdir(path):
            raise RequestError(
                f"cannot write to the output folder {folder}: {path} is no folder; move it away "
                "or use another folder"
            )
    for path in (join(folder, name) for name in (_SUCCESS, _RUN_REPORT, _SCHEMA)):
        if os.path.isdir(path):
            raise RequestError(
                f"cannot write to the output folder {folder}: {path} is a folder where a file "
                "has to go; move it away or use another folder"
            )


def _try_to_write(folder: str) -> None:
    probe = join(folder, f".embed-images-probe-{uuid.uuid4().hex}")
    write_text(probe, "")
    _delete([probe])
