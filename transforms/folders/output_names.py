"""The names of the files in an output folder, and which of them are ours.

A plain run writes into the folder itself:

    OUT/embeddings-00000-of-00003.tfrecord               .tfrecord.gz with gzip
    OUT/embeddings-00000-of-00002.parquet                beside them, or instead
    OUT/schema.pbtxt                                     of the TFRecords
    OUT/dead_letters/dead_letters-00000-of-00001.jsonl
    OUT/run.json
    OUT/_SUCCESS                                         written last: the output is complete

An incremental run writes the same into a folder of its own, the run folder, and the ledger:

    OUT/runs/20261120T063000Z-0123abcd/...
    OUT/runs/20261120T063000Z-0123abcd/manifest-00000-of-00001.parquet

A folder is a local path or a URL such as `gs://bucket/prefix`.
"""

import os
import re
from typing import Literal

from transforms.storage.file_listing import is_remote

Compression = Literal["none", "gzip"]
FileFormat = Literal["tfrecord", "parquet"]

EMBEDDINGS_SUFFIX: dict[Compression, str] = {
    "none": ".tfrecord",
    "gzip": ".tfrecord.gz",
}
PARQUET_SUFFIX = ".parquet"
DEAD_LETTERS_SUFFIX = ".jsonl"

SCHEMA = "schema.pbtxt"
RUN_REPORT = "run.json"
SUCCESS = "_SUCCESS"
DEAD_LETTERS = "dead_letters"
RUNS = "runs"
_EMBEDDINGS = "embeddings"
_MANIFEST = "manifest"
_PROBE = ".embed-images-probe-"
_HEX = "[0-9a-f]{32}"
_SHARD = r"(\d{5,})-of-(\d{5,})"

#: Number, total and suffix of a shard, by the format of the file; what goes before is
#: `embeddings_prefix(folder)` and a hyphen.
EMBEDDING_SHARD: dict[FileFormat, re.Pattern[str]] = {
    "tfrecord": re.compile(_SHARD + r"(\.tfrecord(?:\.gz)?)"),
    "parquet": re.compile(_SHARD + r"(\.parquet)"),
}
#: Likewise, after `manifest_prefix(folder)` and a hyphen.
MANIFEST_SHARD = re.compile(_SHARD + r"(\.parquet)")

#: Runs sort by the time at which they started.
RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")

# Everything that a run may leave behind: how the path goes on from the folder, and what has to
# follow up to its end; a folder ends with a slash. A file sink of Beam writes into
# "beam-temp-<prefix>-<uuid>" beside its shards before it renames them
# (apache_beam/io/filebasedsink.py, _create_temp_dir).
_PLAIN = (
    (SUCCESS, rf"(\.tmp-{_HEX})?"),
    (RUN_REPORT, rf"(\.tmp-{_HEX})?"),
    (SCHEMA, rf"(\.tmp-{_HEX})?"),
    (f"{_EMBEDDINGS}-", "|".join(shard.pattern for shard in EMBEDDING_SHARD.values())),
    (f"beam-temp-{_EMBEDDINGS}-", rf"{_HEX}/.*"),
    (f"{DEAD_LETTERS}/{DEAD_LETTERS}-", _SHARD + re.escape(DEAD_LETTERS_SUFFIX)),
    (f"{DEAD_LETTERS}/beam-temp-{DEAD_LETTERS}-", rf"{_HEX}/.*"),
    (_PROBE, _HEX),
    (f"{DEAD_LETTERS}/{_PROBE}", _HEX),
)
# A plain run writes no ledger, so that a file of such a name in its folder is the user's.
_OF_INCREMENTAL_RUNS = (
    (f"{_MANIFEST}-", MANIFEST_SHARD.pattern),
    (f"beam-temp-{_MANIFEST}-", rf"{_HEX}/.*"),
    (f"{RUNS}/", rf"{RUN_ID.pattern}/.*"),
    (f"{RUNS}/{_PROBE}", _HEX),
)


def join(folder: str, *names: str) -> str:
    """The path of something in a folder, local or not.

    Example:
        >>> join("gs://bucket/out/", "run.json")
        'gs://bucket/out/run.json'
    """
    if is_remote(folder):
        return "/".join((folder.rstrip("/"), *names))
    return os.path.join(folder, *names)


def embeddings_prefix(folder: str) -> str:
    """What the path of every shard of embeddings begins with."""
    return join(folder, _EMBEDDINGS)


def dead_letters_prefix(folder: str) -> str:
    """What the path of every shard of dead letters begins with."""
    return join(folder, DEAD_LETTERS, DEAD_LETTERS)


def manifest_prefix(run_folder: str) -> str:
    """What the path of every shard of the ledger begins with."""
    return join(run_folder, _MANIFEST)


def schema_path(folder: str) -> str:
    """Where the TensorFlow Metadata schema of the examples goes."""
    return join(folder, SCHEMA)


def run_report_path(folder: str) -> str:
    """Where the account of the run goes."""
    return join(folder, RUN_REPORT)


def success_path(folder: str) -> str:
    """Where the empty file goes that says the output is complete."""
    return join(folder, SUCCESS)


def runs_path(folder: str) -> str:
    """Where the run folders of the incremental runs go."""
    return join(folder, RUNS)


def run_folder(folder: str, run_id: str) -> str:
    """Where an incremental run writes.

    Example:
        >>> run_folder("gs://bucket/out", "20261120T063000Z-0123abcd")
        'gs://bucket/out/runs/20261120T063000Z-0123abcd'
    """
    return join(folder, RUNS, run_id)


def probe_path(folder: str, word: str) -> str:
    """Where a file goes that only tries out whether the folder can be written.

    Args:
        folder: what is tried.
        word: 32 hexadecimal digits, others each time.
    """
    return join(folder, f"{_PROBE}{word}")


def is_output_file(folder: str, path: str) -> bool:
    """Whether a run may have written the file at `path` into the folder.

    Of the run folders of incremental runs everything counts.
    """
    # Asked of every file of a listing, of which nearly all lie elsewhere.
    return path.startswith(folder.rstrip("/")) and any(
        is_named_so(folder, name, path) for name in (*_PLAIN, *_OF_INCREMENTAL_RUNS)
    )


def is_named_so(folder: str, name: tuple[str, str], path: str) -> bool:
    """Whether the path in the folder is of such a name: a beginning, and a pattern for the rest."""
    beginning = join(folder, name[0])
    return path.startswith(beginning) and bool(re.fullmatch(name[1], path[len(beginning) :]))


def plain_names() -> tuple[tuple[str, str], ...]:
    """The names of all that a plain run may leave: their beginnings, and patterns for the rest."""
    return _PLAIN
