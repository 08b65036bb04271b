"""What lies in an output folder: which runs, and the shards of each."""

import json
import os
import re

from transforms.folders.output_names import (
    EMBEDDING_SHARD,
    MANIFEST_SHARD,
    RUN_ID,
    SUCCESS,
    FileFormat,
    dead_letters_prefix,
    embeddings_prefix,
    is_named_so,
    join,
    manifest_prefix,
    plain_names,
    run_report_path,
    runs_path,
    success_path,
)
from transforms.storage.file_listing import is_remote
from transforms.storage.output_storage import file_exists, open_file, paths_starting_with


def is_complete(folder: str) -> bool:
    """Whether a run has finished in this folder. False where there is no such folder."""
    return file_exists(success_path(folder))


def stale_files(folder: str) -> list[str]:
    """Everything in the folder that an earlier plain run may have written, `_SUCCESS` first.

    Only names that a run gives are listed, never another file: neither `embeddings.txt` nor
    `embeddings-2024.tfrecord`. The path of a local folder ends with a slash.
    """
    found = [
        path
        for name in plain_names()
        for path in paths_starting_with(join(folder, name[0]))
        if is_named_so(folder, name, path)
    ]
    return sorted(found, key=lambda path: (path != success_path(folder), path))


def output_files(folder: str) -> list[str]:
    """The shards of embeddings, of dead letters and of the ledger in the folder, in order."""
    starts = (f"{dead_letters_prefix(folder)}-", f"{embeddings_prefix(folder)}-")
    files = [path for path in stale_files(folder) if path.startswith(starts)]
    ledger = [path for *_, path in _shards(f"{manifest_prefix(folder)}-", MANIFEST_SHARD)]
    return files + ledger


def read_claim(folder: str) -> str | None:
    """The id of the run that last claimed or finished the folder, or None if none has."""
    try:
        with open_file(run_report_path(folder)) as file:
            claim = json.loads(file.read())
    except (OSError, ValueError):
        return None
    return claim.get("run_id") if isinstance(claim, dict) else None


def list_runs(folder: str) -> dict[str, bool]:
    """The ids of the incremental runs in the folder, in order, and whether each is complete.

    One listing, whatever their number.
    """
    runs = runs_path(folder)
    if is_remote(folder):
        found: dict[str, bool] = {}
        for path in paths_starting_with(join(runs, "")):
            run_id, _, name = path[len(join(runs, "")) :].partition("/")
            if RUN_ID.fullmatch(run_id):
                found[run_id] = found.get(run_id, False) or name == SUCCESS
        return dict(sorted(found.items()))
    names = (os.path.basename(path.rstrip("/")) for path in paths_starting_with(join(runs, "")))
    return {name: is_complete(join(runs, name)) for name in sorted(names) if RUN_ID.fullmatch(name)}


def embedding_formats(folder: str) -> list[FileFormat]:
    """The formats of which the folder holds at least one shard of embeddings."""
    start = f"{embeddings_prefix(folder)}-"
    return [name for name, shard in EMBEDDING_SHARD.items() if _shards(start, shard)]


def embedding_shards(
    folder: str, *, file_format: FileFormat = "tfrecord", allow_incomplete: bool = False
) -> list[str]:
    """The paths of the shards of embeddings, in the order of their numbers.

    Args:
        folder: the output folder of a run.
        file_format: a run may have written more than one.
        allow_incomplete: list what is there, also without `_SUCCESS` and with shards missing.

    Raises:
        FileNotFoundError: the run is not complete, or a shard is missing.
        ValueError: the shards of two runs lie in the folder.
    """
    if allow_incomplete:
        shards = _shards(f"{embeddings_prefix(folder)}-", EMBEDDING_SHARD[file_format])
        return [path for *_, path in shards]
    if not is_complete(folder):
        raise FileNotFoundError(
            f"{folder} holds no complete output: there is no {SUCCESS} in it; run the job "
            "again, or pass allow_incomplete=True to read what is there"
        )
    return one_shard_set(folder, file_format)


def one_shard_set(folder: str, file_format: FileFormat = "tfrecord") -> list[str]:
    """The paths of the shards of embeddings, which must be those of one run, and all of them.

    Args:
        folder: of a run.
        file_format: the shards of another one are not looked at.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: the shards of two runs lie in the folder.
    """
    start = f"{embeddings_prefix(folder)}-"
    return _complete_set(folder, _shards(start, EMBEDDING_SHARD[file_format]), "embeddings")


def manifest_shards(run_folder: str) -> list[str]:
    """The paths of the shards of a run's ledger, all of them.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: there are shards of two sets.
    """
    start = f"{manifest_prefix(run_folder)}-"
    return _complete_set(run_folder, _shards(start, MANIFEST_SHARD), "the ledger")


def _shards(start: str, shard: re.Pattern[str]) -> list[tuple[int, int, str, str]]:
    """Number, total, suffix and path of each shard whose path begins so, in order."""
    return sorted(
        (int(match[1]), int(match[2]), match[3], path)
        for path in paths_starting_with(start)
        if (match := shard.fullmatch(path[len(start) :]))
    )


def _complete_set(folder: str, shards: list[tuple[int, int, str, str]], content: str) -> list[str]:
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
            f"{len(missing)} of the {total} shards of {content} are missing from {folder}; the "
            f"first is number {missing[0]}"
        )
    return [path for *_, path in shards]
