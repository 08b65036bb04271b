"""How fast embeddings become the Parquet rows that BigQuery loads, and what other formats take.

    python benchmarks/bigquery_rows.py --rounds 9

Every round runs each way once, one after the other, on the same embeddings and on one thread, so
that a machine whose speed drifts slows all of them down. The ratios are those within a round; their
median and their spread over the rounds are printed. Files go to memory.

    rows made       from `Embedding` records, and written as a run writes them
    writer alone    pyarrow's writer on rows that were made beforehand, with the same settings: the
                    ratio of the two says what our code costs
    encoder alone   another format, on lists of Python values as its encoder wants them, which were
                    made beforehand too
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
from made_up_embeddings import WIDTH, some_embeddings

from transforms.formats.embedding_rows import RowStamp, Vectors, embedding_rows
from transforms.formats.embedding_table import Provenance
from transforms.formats.parquet_file import RowGroupWriter
from transforms.formats.row_files import rows_at_once
from transforms.records import Embedding, OutputLayout

WITH_DICTIONARY = (
    *("width", "height", "format", "model", "model_fingerprint"),
    *("preprocess_fingerprint", "precision", "run_id"),
)
AVRO_TYPES = {
    "int64": "long",
    "timestamp[us, tz=UTC]": {"type": "long", "logicalType": "timestamp-micros"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=rows_at_once(WIDTH), help="made in one go")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)

    embeddings = some_embeddings(arguments.rows)
    stamp = RowStamp(
        Provenance("gs://models/inception_resnet_v2", "0123456789abcdef", "fedcba9876543210"),
        "20261120T063000Z-0123abcd",
        OutputLayout(WIDTH),
    )
    ways: dict[str, Callable[[], int]] = {}
    for vectors in ("float32", "float64"):
        ready = embedding_rows(embeddings, stamp, vectors=vectors)
        ways[f"Parquet {vectors}, writer alone"] = partial(writer_alone, ready)
        ways[f"Parquet {vectors}, rows made"] = partial(rows_made, embeddings, stamp, vectors)
    rows = embedding_rows(embeddings, stamp, vectors="float64")
    values = rows.to_pylist()
    schema = avro_schema(rows.schema)
    ways["Avro (fastavro), encoder alone"] = lambda: avro(schema, values)
    texts = [value | {"embedded_at": value["embedded_at"].isoformat()} for value in values]
    ways["JSON lines, encoder alone"] = lambda: json_lines(texts)

    rates: dict[str, list[float]] = {name: [] for name in ways}
    sizes = {}
    for number in range(arguments.rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            sizes[name] = way()
            elapsed = time.perf_counter() - started
            if number:  # The first round warms up.
                rates[name].append(len(embeddings) / elapsed)

    print(f"{arguments.rows} rows of {WIDTH} values, {arguments.rounds} rounds")
    for name, found in rates.items():
        print(
            f"{name:32} {spread(found):>28} rows/s {sizes[name] / arguments.rows:8,.0f} bytes/row"
        )
    chosen = rates["Parquet float32, rows made"]
    print("ratios within a round, median (lowest to highest)")
    for vectors in ("float32", "float64"):
        made, alone = (
            rates[f"Parquet {vectors}, {what}"] for what in ("rows made", "writer alone")
        )
        print(f"  row making and writer / writer alone, {vectors:24} {ratio(made, alone)}")
    for name, found in rates.items():
        if not name.startswith("Parquet float32"):
            print(f"  {name + ' / Parquet float32, rows made':62} {ratio(found, chosen)}")


def rows_made(embeddings: list[Embedding], stamp: RowStamp, vectors: Vectors) -> int:
    file = io.BytesIO()
    rows = embedding_rows(embeddings, stamp, vectors=vectors)
    writer = RowGroupWriter(file, rows.schema)
    writer.write(rows)
    writer.close()
    return file.tell()


def writer_alone(rows: pa.Table) -> int:
    file = io.BytesIO()
    pq.write_table(
        rows,
        file,
        compression="zstd",
        use_dictionary=[name for name in WITH_DICTIONARY if name in rows.column_names],
        write_page_checksum=True,
        row_group_size=len(rows),
    )
    return file.tell()


def avro_schema(schema: pa.Schema) -> Any:
    def kind(field: pa.Field) -> Any:
        if pa.types.is_list(field.type):
            return {"type": "array", "items": "double"}
        return ["null", AVRO_TYPES.get(str(field.type), str(field.type))]

    fields = [{"name": field.name, "type": kind(field)} for field in schema]
    return fastavro.parse_schema({"type": "record", "name": "row", "fields": fields})


def avro(schema: Any, values: list[dict[str, Any]]) -> int:
    file = io.BytesIO()
    fastavro.writer(file, schema, values, codec="deflate", codec_compression_level=1)
    return file.tell()


def json_lines(values: list[dict[str, Any]]) -> int:
    return sum(len(json.dumps(value)) + 1 for value in values)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def ratio(ours: list[float], theirs: list[float]) -> str:
    found = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"


if __name__ == "__main__":
    main()
