"""The embeddings of an output folder in memory: the reader for everybody.

It reads the folder of a plain run, that of one incremental run (OUT/runs/<run id>), and a folder
of incremental runs, of which it returns the live rows only.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.folders.output_contents import embedding_formats, embedding_shards, list_runs
from transforms.folders.output_names import FileFormat, run_folder, runs_path, schema_path
from transforms.formats.embedding_table import SET_COLUMNS, EmbeddingTable, concatenate
from transforms.formats.output_features import OUTPUT_FEATURES
from transforms.formats.parquet_file import read_parquet_shards
from transforms.formats.tf_example import read_tfrecord_shards
from transforms.ledgers.incremental_runs import complete_runs, read_live_rows
from transforms.storage.file_listing import storage_path

# So many rows are moved at once when others are left out: some 25 MB at 1,536 floats.
_ROWS_PER_MOVE = 4096


def read_embeddings(
    folder: str | os.PathLike[str],
    *,
    model_fingerprint: str | None = None,
    preprocess_fingerprint: str | None = None,
    precision: str | None = None,
    allow_incomplete: bool = False,
) -> EmbeddingTable:
    """Read the embeddings of an output folder, from Parquet where there is some, else TFRecords.

    The rows come in the order of the shards' numbers and of their places in the shard; those of
    a folder of incremental runs in the order of the runs first, and only the live ones: neither
    what a later run has replaced nor what one has pruned.

    The vectors are in memory once, plus some 300 MB while they are read; where there are rows to
    leave out or several runs, also plus the largest shard.

    Args:
        folder: a local path, or a URL such as gs://bucket/out: of a plain run, of one incremental
            run, or of all incremental runs.
        model_fingerprint: of the rows to read, where the folder holds those of several models.
        preprocess_fingerprint: likewise.
        precision: likewise.
        allow_incomplete: read what is there, also where the run has not finished or files are
            missing.

    Raises:
        FileNotFoundError: no run is complete, or a file of one is missing.
        RequestError: a run.json or the ledger is damaged.
        ValueError: a shard is damaged or lacks a live row, or there are vectors of several
            models, preprocessings or precisions to choose from, or none of those asked for.

    Example:
        >>> table = read_embeddings("out")  # doctest: +SKIP
        >>> table.uris[0], table.vectors.shape  # doctest: +SKIP
    """
    folder = storage_path(os.fspath(folder))
    wanted = dict(
        zip(SET_COLUMNS, (model_fingerprint, preprocess_fingerprint, precision), strict=True)
    )
    if list_runs(folder):
        return _read_live(folder, wanted, allow_incomplete=allow_incomplete)
    table = _read_shards(folder, *_shards(folder, allow_incomplete=allow_incomplete))
    for name, value in wanted.items():
        made_by = value if table.provenance is None else getattr(table.provenance, name)
        if value is not None and value != made_by:
            raise ValueError(f"{folder} holds vectors whose {name} is {made_by}, not {value}")
    return table


def _shards(folder: str, *, allow_incomplete: bool) -> tuple[FileFormat, list[str]]:
    """The better one of the formats that are there, and its shards."""
    file_format: FileFormat = "parquet" if "parquet" in embedding_formats(folder) else "tfrecord"
    shards = embedding_shards(folder, file_format=file_format, allow_incomplete=allow_incomplete)
    return file_format, shards


def _read_shards(folder: str, file_format: FileFormat, shards: Sequence[str]) -> EmbeddingTable:
    if file_format == "parquet":
        return read_parquet_shards(shards)
    return read_tfrecord_shards(shards, schema_path(folder))


def _read_live(
    folder: str, wanted: dict[str, str | None], *, allow_incomplete: bool
) -> EmbeddingTable:
    runs = complete_runs(folder)
    if not runs:
        raise FileNotFoundError(
            f"{folder} holds no complete output: no run in {runs_path(folder)} has a _SUCCESS; run "
            "the job again, or read one of these folders with allow_incomplete=True"
        )
    rows = _one_set(folder, read_live_rows(folder, runs, columns=SET_COLUMNS), wanted)
    tables: list[EmbeddingTable] = []
    for run_id in sorted(pc.unique(rows["run_id"]).to_pylist()):
        uris = set(rows.filter(pc.equal(rows["run_id"], run_id))["uri"].to_pylist())
        if run_id not in runs and not allow_incomplete:
            raise FileNotFoundError(
                f"{len(uris):,} live rows lie in the run {run_id}, which is missing from "
                f"{runs_path(folder)}; restore it, or run the job again, which embeds them again"
            )
        for table in _read_run(run_folder(folder, run_id), uris, allow_incomplete=allow_incomplete):
            tables.append(table)
            if _widths(table) != _widths(tables[0]):
                raise ValueError(
                    f"the run {run_id} has other outputs, {_widths(table)}, than the earlier ones, "
                    f"{_widths(tables[0])}; read its folder {run_folder(folder, run_id)} by itself"
                )
    if not tables:
        # Without rows, too, the table has the columns of the newest run.
        newest = run_folder(folder, max(runs))
        tables.extend(_read_run(newest, set(), allow_incomplete=allow_incomplete))
    return _join(tables)


def _one_set(folder: str, rows: pa.Table, wanted: dict[str, str | None]) -> pa.Table:
    """The rows that are wanted, which must be comparable."""
    for name, value in wanted.items():
        if value is not None:
            rows = rows.filter(pc.equal(rows[name], value))
    sets = (
        rows.group_by(list(SET_COLUMNS), use_threads=False)
        .aggregate([([], "count_all")])
        .to_pylist()
    )
    if len(sets) > 1:
        choices = "; ".join(
            f"{one['count_all']:,} rows with "
            + ", ".join(
                f"{name} {one[name]}" for name in SET_COLUMNS if len({o[name] for o in sets}) > 1
            )
            for one in sets
        )
        raise ValueError(
            f"{folder} holds vectors that cannot be compared with one another: {choices}; say "
            f"which to read, with {' or '.join(SET_COLUMNS)}"
        )
    asked = ", ".join(f"{name} {value}" for name, value in wanted.items() if value is not None)
    if not sets and asked:
        raise ValueError(f"{folder} holds no live row with {asked}")
    return rows


def _read_run(folder: str, uris: set[str], *, allow_incomplete: bool) -> Iterator[EmbeddingTable]:
    """The rows of these URIs, shard by shard; all of them, unless it may be incomplete."""
    file_format, shards = _shards(folder, allow_incomplete=allow_incomplete)
    for path in shards:
        table = _read_shards(folder, file_format, [path])
        kept = np.zeros(len(table), np.bool_)
        for place, uri in enumerate(table.uris):
            if uri in uris:
                uris.remove(uri)
                kept[place] = True
        yield _keep(table, kept)
    if uris and not allow_incomplete:
        raise ValueError(
            f"{folder} lacks {len(uris):,} of the rows that the ledger says it holds, {min(uris)} "
            "for one"
        )


def _keep(table: EmbeddingTable, kept: npt.NDArray[np.bool_]) -> EmbeddingTable:
    """The rows that are kept, moved up in the table's own arrays; the table is used up."""
    if kept.all():
        return table
    columns: dict[str, Any] = {}
    for field in fields(table):
        column = getattr(table, field.name)
        if isinstance(column, np.ndarray):
            columns[field.name] = _move_up(column, kept)
        elif isinstance(column, list):
            columns[field.name] = list(compress(column, kept))
    carried = {name: list(compress(values, kept)) for name, values in table.carried.items()}
    return replace(table, carried=carried, **columns)


def _move_up(column: npt.NDArray[Any], kept: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """The rows that are kept; where it can be, in the array's own memory, the rest of it freed."""
    if column.dtype.hasobject or not (column.flags.owndata and column.flags.writeable):
        return column[kept]
    end = 0
    for start in range(0, len(column), _ROWS_PER_MOVE):
        rows = column[start : start + _ROWS_PER_MOVE][kept[start : start + _ROWS_PER_MOVE]]
        column[end : end + len(rows)] = rows
        end += len(rows)
    column.resize((end, *column.shape[1:]), refcheck=False)
    return column


def _widths(table: EmbeddingTable) -> dict[str, int]:
    columns = {name: getattr(table, output.column) for name, output in OUTPUT_FEATURES.items()}
    return {
        name: column.shape[1]
        for name, column in columns.items()
        if column is not None and column.shape[1]
    }


def _join(tables: list[EmbeddingTable]) -> EmbeddingTable:
    """One table of all; its model's handle is that of the newest run with a row."""
    if len(tables) == 1:
        return tables[0]
    provenances = [table.provenance for table in tables if len(table)]
    joined = concatenate(tables, _widths(tables[0]))
    return replace(joined, provenance=provenances[-1] if provenances else None)
