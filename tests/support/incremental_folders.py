"""Folders of incremental runs: made without a pipeline, and looked through after one."""

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow.parquet as pq

from transforms.folders.output_contents import embedding_formats, embedding_shards
from transforms.folders.output_names import run_folder, schema_path
from transforms.formats.embedding_rows import RowStamp, embedding_rows
from transforms.formats.embedding_table import EmbeddingTable, Provenance
from transforms.formats.parquet_file import read_parquet_shards
from transforms.formats.tf_example import (
    embeddings_schema_text,
    encode_embeddings,
    read_tfrecord_shards,
)
from transforms.ledgers.incremental_runs import complete_runs, heads, manifest_files
from transforms.ledgers.ledger import (
    entries_from_arrow,
    entries_to_arrow,
    ledger_entry,
    live_entries,
)
from transforms.records import Embedding, ImageInfo, LedgerEntry, Origin, OutputLayout
from transforms.search.read_embeddings import read_embeddings
from transforms.storage.output_storage import open_file

WIDTH = 4


def run_id(number: int) -> str:
    """The id of the run of that number, later ones behind earlier ones."""
    return f"202611{number // 24 + 1:02d}T{number % 24:02d}0000Z-{number:08x}"


def made_by(model: str = "m1") -> Provenance:
    return Provenance(f"/models/{model}", model, "p1", "float32")


def embedding(uri: str, value: float, at: float) -> Embedding:
    """An image whose vector holds nothing but that value."""
    info = ImageInfo(
        uri, hashlib.sha256(uri.encode()).hexdigest(), "JPEG", 3, 5, Origin(f"g{value:g}")
    )
    return Embedding(info, np.full(WIDTH, value, np.float32), 1.0, at)


def entries(number: int, embeddings: Iterable[Embedding], model: str = "m1") -> list[LedgerEntry]:
    """The lines of the ledger for what the run of that number has embedded."""
    return [ledger_entry(one, made_by(model), run_id(number)) for one in embeddings]


def put_run(
    folder: Path,
    number: int,
    embedded: Iterable[Embedding] = (),
    live: Iterable[LedgerEntry] = (),
    *,
    parents: Iterable[int] = (),
    model: str = "m1",
    file_format: str = "parquet",
    shards: int = 1,
    complete: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Leave what a run leaves that has embedded these, and after which these lines are live."""
    out = Path(run_folder(str(folder), run_id(number)))
    out.mkdir(parents=True)
    layout = OutputLayout(embedding_width=WIDTH)
    embedded = list(embedded)
    for shard in range(shards):
        some = embedded[shard::shards]
        name = f"embeddings-{shard:05d}-of-{shards:05d}.{file_format}"
        if file_format == "parquet":
            stamp = RowStamp(made_by(model), run_id(number), layout)
            pq.write_table(embedding_rows(some, stamp, vectors="float32"), out / name)
        else:
            write_records(out / name, encode_embeddings(some, made_by(model), layout))
    if file_format != "parquet":
        (out / "schema.pbtxt").write_text(embeddings_schema_text(layout))
    pq.write_table(entries_to_arrow(live), out / "manifest-00000-of-00001.parquet")
    report = {
        "run_id": run_id(number),
        "parents": [run_id(parent) for parent in parents],
        "model": {"handle": f"/models/{model}", "fingerprint": model, "precision": "float32"},
        "outputs": {
            "embedding_width": WIDTH,
            "classes": 0,
            "writes_logits": False,
            "top_classes": 0,
            "labels": None,
        },
        "preprocessing": {"fingerprint": "p1"},
        "columns": [],
        **(facts or {}),
    }
    (out / "run.json").write_text(json.dumps(report))
    if complete:
        (out / "_SUCCESS").touch()
    return out


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Write a TFRecord file."""

    def checksum(data: bytes) -> bytes:
        value = google_crc32c.value(data)
        return struct.pack("<I", (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    with path.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + checksum(length) + record + checksum(record))


def assert_every_image_once(folder: str | Path) -> dict[str, np.ndarray]:
    """Look through a folder of incremental runs by other means than its reader's.

    - No manifest names a row twice, and every live row lies, once, in the run that it names, in
      each format, with the same bytes.
    - `read_embeddings` returns these rows, each once, and nothing else.

    Returns:
        The vector of each live URI; of a folder with one set of vectors.
    """
    folder = str(folder)
    runs = complete_runs(folder)
    named: list[LedgerEntry] = []
    for head in heads(runs):
        in_head = []
        for path in manifest_files(folder, [head]):
            in_head += list(entries_from_arrow(read_manifest(path)))
        repeated = [key for key, count in Counter(one.key for one in in_head).items() if count > 1]
        assert not repeated, f"the manifest of {head} names {repeated[:3]} twice"
        named += in_head
    live = live_entries(named)
    assert {one.run_id for one in live} <= runs.keys()

    vectors: dict[str, np.ndarray] = {}
    for holder in sorted({one.run_id for one in live}):
        for table in all_rows(run_folder(folder, holder)):
            repeated = [uri for uri, count in Counter(table.uris).items() if count > 1]
            assert not repeated, f"{holder} holds {repeated[:3]} twice"
            place = {uri: row for row, uri in enumerate(table.uris)}
            for one in live:
                if one.run_id == holder:
                    assert one.uri in place, f"{holder} lacks {one.uri}"
                    assert table.sha256[place[one.uri]] == one.sha256, one.uri
                    vectors[one.uri] = table.vectors[place[one.uri]]
    table = read_embeddings(folder)
    assert sorted(table.uris) == sorted(one.uri for one in live)
    for uri, vector in zip(table.uris, table.vectors, strict=True):
        np.testing.assert_array_equal(vector, vectors[uri], err_msg=uri)
    return vectors


def all_rows(one_run: str) -> list[EmbeddingTable]:
    """All rows of a run, live or not, once from each format that it has written."""
    tables = []
    for file_format in embedding_formats(one_run):
        shards = embedding_shards(one_run, file_format=file_format)
        if file_format == "parquet":
            tables.append(read_parquet_shards(shards))
        else:
            tables.append(read_tfrecord_shards(shards, schema_path(one_run)))
    assert tables, f"{one_run} holds no shards"
    return tables


def read_manifest(path: str) -> Any:
    """The rows of one manifest file, by nothing but pyarrow."""
    with open_file(path) as file:
        return pq.read_table(file)
