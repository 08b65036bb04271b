"""What a run may do with an output folder, and how it begins in one.

`output_names` says which files there are, `output_contents` which of them are there, and
`output_storage` reads and writes them; what others need of these can be imported from here.
"""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from transforms.errors import RequestError
from transforms.folders.output_contents import (
    embedding_formats,
    embedding_shards,
    is_complete,
    list_runs,
    manifest_shards,
    one_shard_set,
    output_files,
    read_claim,
    stale_files,
)
from transforms.folders.output_names import (
    DEAD_LETTERS,
    DEAD_LETTERS_SUFFIX,
    EMBEDDINGS_SUFFIX,
    PARQUET_SUFFIX,
    RUN_REPORT,
    SCHEMA,
    SUCCESS,
    Compression,
    FileFormat,
    dead_letters_prefix,
    embeddings_prefix,
    is_output_file,
    join,
    manifest_prefix,
    probe_path,
    run_folder,
    run_report_path,
    runs_path,
    schema_path,
    success_path,
)
from transforms.storage.file_listing import is_remote
from transforms.storage.output_storage import delete, open_file, paths_starting_with, write_text

__all__ = [
    "DEAD_LETTERS_SUFFIX",
    "EMBEDDINGS_SUFFIX",
    "PARQUET_SUFFIX",
    "Compression",
    "FileFormat",
    "check_incremental_output",
    "check_output",
    "check_temporary_folder",
    "claim_output",
    "create_run_folder",
    "dead_letters_prefix",
    "embedding_formats",
    "embedding_shards",
    "embeddings_prefix",
    "is_complete",
    "is_output_file",
    "join",
    "list_runs",
    "manifest_prefix",
    "manifest_shards",
    "one_shard_set",
    "open_file",
    "output_files",
    "prepare_output",
    "read_claim",
    "run_folder",
    "run_report_path",
    "runs_path",
    "schema_path",
    "stale_files",
    "success_path",
    "write_text",
]


def claim_output(folder: str, run_id: str) -> None:
    """Say in the folder which run is at work in it, so that an earlier one notices."""
    claim = {"status": "running", "run_id": run_id}
    write_text(run_report_path(folder), json.dumps(claim) + "\n")


def check_output(folder: str, *, overwrite: bool) -> None:
    """Check that a plain run may write to the folder; create it if need be, delete nothing.

    Args:
        folder: a local path, or a URL such as `gs://bucket/prefix`.
        overwrite: also where the folder holds a complete output.

    Raises:
        RequestError: the folder holds a complete output and `overwrite` is false, or it
            holds incremental runs, or it cannot be created or written, or its name is one that
            Beam cannot write to.
    """
    _refuse_pattern(folder)
    with _storage_errors_as_request_errors(folder):
        if list_runs(folder):
            stay = ", which --overwrite does not remove" if overwrite else ""
            raise RequestError(
                f"{folder} holds incremental runs, in {runs_path(folder)}{stay}; use --incremental "
                "or another folder"
            )
        if is_complete(folder) and not overwrite:
            raise RequestError(
                f"{folder} already holds a complete output (it has {SUCCESS}); use --overwrite "
                "or another folder"
            )
        if not is_remote(folder):
            _refuse_files_in_the_way(folder, folder, join(folder, DEAD_LETTERS))
            _refuse_folders_in_the_way(folder)
            os.makedirs(folder, exist_ok=True)
        _try_to_write(folder)
        dead_letters = join(folder, DEAD_LETTERS)
        if not is_remote(folder) and os.path.isdir(dead_letters):
            _try_to_write(dead_letters)


def check_incremental_output(folder: str) -> None:
    """Check that an incremental run may write below the folder; create what is not there.

    Nothing is ever deleted: each run gets a new folder of its own, `run_folder`.

    Args:
        folder: what holds all runs: a local path, or a URL such as `gs://bucket/prefix`.

    Raises:
        RequestError: the folder holds the complete output of a plain run, or it cannot be
            created or written, or its name is one that Beam cannot write to.
    """
    _refuse_pattern(folder)
    runs = runs_path(folder)
    with _storage_errors_as_request_errors(folder):
        if is_complete(folder):
            raise RequestError(
                f"{folder} holds the complete output of a run without --incremental (it has "
                f"{SUCCESS}), which says nothing of single images; use another folder"
            )
        if not is_remote(folder):
            _refuse_files_in_the_way(folder, folder, runs)
            os.makedirs(runs, exist_ok=True)
        _try_to_write(runs)


def check_temporary_folder(folder: str) -> None:
    """Check that a run may write below a folder for temporary files; leave nothing there.

    Raises:
        RequestError: it may not, or there is no such bucket.
    """
    with _storage_errors_as_request_errors(folder, "temporary folder"):
        _try_to_write(folder)


def create_run_folder(run_folder: str) -> None:
    """Make the folder of one incremental run, which must not be there yet.

    Raises:
        RequestError: it is there, or it cannot be created.
    """
    with _storage_errors_as_request_errors(run_folder):
        if paths_starting_with(join(run_folder, "")):
            raise RequestError(f"{run_folder} is there already; start the run again")
        if not is_remote(run_folder):
            os.makedirs(run_folder)


def prepare_output(folder: str, *, overwrite: bool) -> None:
    """Make the folder ready for a plain run: checked, and with no file of an earlier run in it.

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
        delete([path for path in stale if path == success_path(folder)])
        delete([path for path in stale if path != success_path(folder)])


@contextmanager
def _storage_errors_as_request_errors(folder: str, what: str = "output folder") -> Iterator[None]:
    # The clients of the clouds raise errors of many kinds.
    kinds: type[Exception] = Exception if is_remote(folder) else OSError
    try:
        yield
    except kinds as error:
        if isinstance(error, RequestError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise RequestError(
            f"cannot use the {what} {folder}: {reason}; use a folder that you may write to"
        ) from error


def _refuse_pattern(folder: str) -> None:
    special = sorted(set(folder) & set("*?["))
    if special:
        # Beam's file sinks look for their own temporary files with glob patterns, which
        # know no escape, so they would not find them.
        raise RequestError(
            f"the output folder {folder} has {' '.join(special)} in its name, which Beam takes "
            "for a pattern; use another folder"
        )


def _refuse_files_in_the_way(folder: str, *needed: str) -> None:
    for path in needed:
        if os.path.lexists(path) and not os.path.isdir(path):
            raise RequestError(
                f"cannot write to the output folder {folder}: {path} is no folder; move it away "
                "or use another folder"
            )


def _refuse_folders_in_the_way(folder: str) -> None:
    for path in (join(folder, name) for name in (SUCCESS, RUN_REPORT, SCHEMA)):
        if os.path.isdir(path):
            raise RequestError(
                f"cannot write to the output folder {folder}: {path} is a folder where a file "
                "has to go; move it away or use another folder"
            )


def _try_to_write(folder: str) -> None:
    probe = probe_path(folder, uuid.uuid4().hex)
    write_text(probe, "")
    delete([probe])
