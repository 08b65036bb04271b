"""The runs of a folder of incremental runs: which there are, and what is live after them.

The run.json of each names, as `parents`, the runs from whose manifests it started. What is live
lies in the manifests of the *heads*: the complete runs that no other complete run started from.
There is one as a rule, and there are two after two runs that overlapped. A run without `_SUCCESS`
does not count, and no two runs write the same file, so that none can be torn.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from transforms.errors import RequestError
from transforms.folders.output_contents import list_runs, manifest_shards
from transforms.folders.output_names import run_folder, run_report_path
from transforms.formats.embedding_table import Provenance
from transforms.ledgers.ledger import KEY_COLUMNS, MANIFEST_SCHEMA, live_rows, open_manifest
from transforms.records import CarriedColumn, OutputLayout
from transforms.storage.output_storage import read_small_file

# Reading a small object is waiting; more at once than this and a storage may slow them down.
_CONCURRENT_READS = 32

#: What tells which rows are live, and where they lie.
_NEEDED = (*KEY_COLUMNS, "run_id", "embedded_at")

Facts = Mapping[str, Any]
"""The content of a run.json."""


@dataclass(frozen=True, slots=True)
class VectorSet:
    """Vectors that can be compared, as far as a folder holds some."""

    provenance: Provenance
    """Its handle is that of the newest run; the others' may differ."""
    layout: OutputLayout
    """Of the newest run; without the labels, which its run.json names by their file only."""
    columns: tuple[CarriedColumn, ...]
    """Of the newest run."""
    facts: Facts
    """Of the newest run: all of its run.json."""


def complete_runs(folder: str) -> dict[str, Facts]:
    """The runs with `_SUCCESS` in a folder of incremental runs, in order: id -> its run.json.

    One listing, and all run.json files read at the same time, so that a year of nightly runs in
    a bucket takes about a second.

    Raises:
        RequestError: a run.json cannot be read, or is not that of the run whose folder it is in.
    """
    run_ids = [run_id for run_id, complete in list_runs(folder).items() if complete]
    if not run_ids:
        return {}
    with ThreadPoolExecutor(min(len(run_ids), _CONCURRENT_READS)) as pool:
        facts = pool.map(lambda run_id: _read_facts(folder, run_id), run_ids)
        return dict(zip(run_ids, facts, strict=True))


def _read_facts(folder: str, run_id: str) -> Facts:
    path = run_report_path(run_folder(folder, run_id))
    try:
        facts = json.loads(read_small_file(path))
        problem = None if facts["run_id"] == run_id else f"its run_id is {facts['run_id']!r}"
        if not all(isinstance(parent, str) for parent in facts["parents"]):
            problem = "its parents are no ids of runs"
    except Exception as error:  # The clients of the clouds raise errors of many kinds.
        problem = f"{type(error).__name__}: {error}"
    if problem is None:
        return facts  # type: ignore[no-any-return]
    raise RequestError(
        f"cannot read {path}, of a complete run: {problem}; restore the file, or take the whole "
        f"folder {run_folder(folder, run_id)} away, and the images that it holds are embedded again"
    )


def heads(runs: Mapping[str, Facts]) -> tuple[str, ...]:
    """The complete runs whose manifests hold what is live, in order.

    Where a run names a parent that is not there any more, whatever is older than that parent
    counts as its ancestor: else what was pruned long ago would come back. If it was none, but a
    run that overlapped it, its images are embedded again.

    Args:
        runs: as `complete_runs` returns them.

    Example:
        >>> heads({"1": {"parents": []}, "2": {"parents": ["1"]}, "3": {"parents": ["1"]}})
        ('2', '3')
    """
    parents = {parent for facts in runs.values() for parent in facts["parents"]}
    newest_missing = max(parents - runs.keys(), default="")
    return tuple(
        run_id
        for run_id in sorted(runs.keys() - parents)
        # The clock of its launcher may have been behind that of its parent's.
        if run_id > newest_missing or newest_missing in runs[run_id]["parents"]
    )


def vector_sets(runs: Mapping[str, Facts]) -> tuple[VectorSet, ...]:
    """The sets of comparable vectors that complete runs have made, the newest run's set last.

    Args:
        runs: as `complete_runs` returns them.

    Raises:
        RequestError: a run.json lacks what tells its set.
    """
    newest: dict[tuple[str, str, str], VectorSet] = {}
    for run_id in sorted(runs):
        made = _vector_set(run_id, runs[run_id])
        newest.pop(made.provenance.set_key, None)
        newest[made.provenance.set_key] = made
    return tuple(newest.values())


def _vector_set(run_id: str, facts: Facts) -> VectorSet:
    try:
        model, outputs = facts["model"], facts["outputs"]
        return VectorSet(
            provenance=Provenance(
                model_handle=model["handle"],
                model_fingerprint=model["fingerprint"],
                preprocess_fingerprint=facts["preprocessing"]["fingerprint"],
                precision=model["precision"],
            ),
            layout=OutputLayout(
                embedding_width=outputs["embedding_width"],
                classes=outputs["classes"],
                writes_logits=outputs["writes_logits"],
                top_classes=outputs["top_classes"],
            ),
            columns=tuple(CarriedColumn(**column) for column in facts.get("columns", ())),
            facts=facts,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"the run.json of the run {run_id} does not say what its vectors are: "
            f"{type(error).__name__}: {error}; restore the file, or take the run's folder away, "
            "and its images are embedded again"
        ) from error


def manifest_files(folder: str, run_ids: Iterable[str]) -> tuple[str, ...]:
    """The paths of the manifests of these runs, all shards of each.

    Raises:
        RequestError: a shard is missing.
    """
    try:
        return tuple(
            path for run_id in run_ids for path in manifest_shards(run_folder(folder, run_id))
        )
    except (FileNotFoundError, ValueError) as error:
        raise RequestError(f"{error}; restore it from a copy of the folder") from error


def read_live_rows(
    folder: str, runs: Mapping[str, Facts] | None = None, *, columns: Sequence[str] | None = None
) -> pa.Table:
    """The live rows of a folder of incremental runs, in order of their URIs: `MANIFEST_SCHEMA`.

    Args:
        folder: what holds the runs.
        runs: as `complete_runs` returns them; None: they are looked up.
        columns: only these, and those that tell what is live; None: all.

    Raises:
        RequestError: a run.json or a manifest is missing or damaged.
        ValueError: a manifest is damaged.

    Example:
        >>> uris = read_live_rows("out")["uri"].to_pylist()  # doctest: +SKIP
    """
    runs = complete_runs(folder) if runs is None else runs
    if columns is None:
        names = MANIFEST_SCHEMA.names
    else:
        names = [name for name in MANIFEST_SCHEMA.names if name in {*columns, *_NEEDED}]
    tables = [pa.schema([MANIFEST_SCHEMA.field(name) for name in names]).empty_table()]
    for path in manifest_files(folder, heads(runs)):
        with open_manifest(path) as manifest:
            tables.append(manifest.read(names))
    return live_rows(pa.concat_tables(tables))
