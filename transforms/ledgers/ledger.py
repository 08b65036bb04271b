"""The ledger of a folder of incremental runs: what a line of it is, and which lines are live.

Each run leaves a *manifest*, a snapshot of all rows that are live after it, those of earlier
runs included, as Parquet with one row for each `LedgerEntry`:

    uri                     string
    generation              string, or null
    sha256                  string             of the bytes that were embedded
    model_fingerprint       string
    preprocess_fingerprint  string
    precision               string
    run_id                  string             of the run whose shards hold the vector
    embedded_at             timestamp, UTC     in microseconds

`incremental_runs` says whose manifests count.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.formats.embedding_table import SET_COLUMNS, Provenance
from transforms.records import Embedding, LedgerEntry
from transforms.storage.output_storage import open_file

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("generation", pa.string()),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("model_fingerprint", pa.string(), nullable=False),
        pa.field("preprocess_fingerprint", pa.string(), nullable=False),
        pa.field("precision", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("embedded_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

#: Together one of these has one live row; as `LedgerEntry.key`.
KEY_COLUMNS = ("uri", *SET_COLUMNS)


def ledger_entry(embedding: Embedding, provenance: Provenance, run_id: str) -> LedgerEntry:
    """Return the line of the ledger for a vector that a run has just made.

    Its time is rounded to the microseconds that a manifest keeps.
    """
    info = embedding.info
    return LedgerEntry(
        uri=info.uri,
        generation=info.origin.generation,
        sha256=info.sha256,
        model_fingerprint=provenance.model_fingerprint,
        preprocess_fingerprint=provenance.preprocess_fingerprint,
        precision=provenance.precision,
        run_id=run_id,
        embedded_at=round(embedding.embedded_at, 6),
    )


def entries_to_arrow(entries: Iterable[LedgerEntry]) -> pa.Table:
    """Return the entries as rows of `MANIFEST_SCHEMA`, in their order."""
    entries = list(entries)
    columns: dict[str, Any] = {
        name: [getattr(entry, name) for entry in entries] for name in MANIFEST_SCHEMA.names
    }
    seconds = np.array(columns["embedded_at"], np.float64)
    columns["embedded_at"] = np.rint(seconds * 1e6).astype("datetime64[us]")
    return pa.table(columns, schema=MANIFEST_SCHEMA)


def entries_from_arrow(rows: pa.Table | pa.RecordBatch) -> Iterator[LedgerEntry]:
    """Yield the entries that `entries_to_arrow` made rows of, in their order.

    Example:
        >>> entry = LedgerEntry("/a.jpg", None, "5e", "m", "p", "float32", "r", 1.25)
        >>> list(entries_from_arrow(entries_to_arrow([entry]))) == [entry]
        True
    """
    columns = [
        rows.column(name).to_pylist() for name in MANIFEST_SCHEMA.names if name != "embedded_at"
    ]
    microseconds = rows.column("embedded_at").cast(pa.int64()).to_numpy()
    for row in zip(*columns, (microseconds / 1e6).tolist(), strict=True):
        yield LedgerEntry(*row)


def live_entries(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """Return the latest entry of each key; of equally late ones, the later run's."""
    newest: dict[tuple[str, str, str, str], LedgerEntry] = {}
    for entry in entries:
        known = newest.get(entry.key)
        if known is None or age(entry) > age(known):
            newest[entry.key] = entry
    return list(newest.values())


def age(entry: LedgerEntry) -> tuple[float, str]:
    """Return what grows with the time at which an entry was made; of two, the later counts."""
    return entry.embedded_at, entry.run_id


def live_rows(rows: pa.Table) -> pa.Table:
    """Return what `live_entries` returns, in Arrow: one row for each key, in order of the keys.

    Args:
        rows: of `MANIFEST_SCHEMA`; the columns `generation` and `sha256` may be missing.
    """
    rows = rows.sort_by(
        [
            *((name, "ascending") for name in KEY_COLUMNS),
            ("embedded_at", "descending"),
            ("run_id", "descending"),
        ]
    )
    first_of_its_key = np.ones(len(rows), np.bool_)
    if len(rows):
        differs = (pc.not_equal(rows[name][1:], rows[name][:-1]).to_numpy() for name in KEY_COLUMNS)
        first_of_its_key[1:] = np.logical_or.reduce(list(differs))
    return rows.filter(pa.array(first_of_its_key))


@contextmanager
def open_manifest(path: str) -> Iterator[pq.ParquetFile]:
    """Open one shard of a manifest for reading.

    Raises:
        ValueError: the file is no manifest, or what is read of it in the block is damaged; the
            message names it.
    """
    with open_file(path) as file:
        try:
            manifest = pq.ParquetFile(file)
            if not manifest.schema_arrow.equals(MANIFEST_SCHEMA):
                raise ValueError(f"its columns are {', '.join(manifest.schema_arrow.names)}")
            yield manifest
        except (ValueError, OSError, pa.ArrowException) as error:
            raise ValueError(f"cannot read the manifest {path}: {error}") from error
