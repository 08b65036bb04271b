"""The rows of a BigQuery table, read by many workers at once through the Storage Read API.

A *session* is a snapshot of the table; it deals the rows out to *streams*, which are read
independently of each other, with only the columns that are asked for
(https://cloud.google.com/bigquery/docs/reference/storage). Nothing is exported to files, and
nothing is left behind. With the environment variable BIGQUERY_STORAGE_EMULATOR_HOST, as
host:port, everything goes to an emulator, without a look for credentials.
"""

import functools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
import pyarrow as pa
from google.cloud.bigquery_storage_v1 import BigQueryReadClient
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (
    BigQueryReadGrpcTransport,
)
from google.cloud.bigquery_storage_v1.types import DataFormat, ReadSession

from transforms.bigquery.client import REQUEST_SECONDS, TableName
from transforms.bigquery.errors import explained_errors, patient_retry

EMULATOR_VARIABLE = "BIGQUERY_STORAGE_EMULATOR_HOST"

#: The most that there can be; BigQuery gives as many as make sense for the size of the table.
_MAX_STREAMS = 1000


@dataclass(frozen=True, slots=True)
class TableStream:
    """Some of the rows of a table. It may be read, and read again, for several hours."""

    name: str
    schema: bytes
    """Of its batches, as Arrow serializes it."""
    project: str


def open_streams(
    table: TableName, columns: Sequence[str], where: str = "", *, project: str | None = None
) -> list[TableStream]:
    """Take a snapshot of a table; return the streams that its rows are dealt out to.

    Args:
        table: no view.
        columns: only these are read.
        where: a condition over the columns of the table, as in a WHERE clause.
        project: pays; None: that of the table. Needs roles/bigquery.readSessionUser.

    Raises:
        JobError: the table cannot be read; the message says what to grant or change.

    Example:
        >>> streams = open_streams(table, ["uri"], "width > 100")  # doctest: +SKIP
        >>> batches = [batch for stream in streams for batch in read_stream(stream)]
        ... # doctest: +SKIP
    """
    project = project or table.project
    wanted = ReadSession(
        table=f"projects/{table.project}/datasets/{table.dataset}/tables/{table.table}",
        data_format=DataFormat.ARROW,
        read_options=ReadSession.TableReadOptions(
            selected_fields=list(columns), row_restriction=where
        ),
    )
    with explained_errors(project):
        session = _read_client().create_read_session(
            parent=f"projects/{project}",
            read_session=wanted,
            max_stream_count=_MAX_STREAMS,
            retry=patient_retry(),
            timeout=REQUEST_SECONDS,
        )
    schema = session.arrow_schema.serialized_schema
    return [TableStream(stream.name, schema, project) for stream in session.streams]


def read_stream(stream: TableStream) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a stream in batches, always in the same order.

    A connection that breaks is taken up again where it broke.

    Raises:
        JobError: the stream cannot be read.
    """
    schema = pa.ipc.read_schema(pa.py_buffer(stream.schema))
    with explained_errors(stream.project):
        # The timeout is that of a whole stream.
        responses = _read_client().read_rows(
            stream.name,
            retry=patient_retry(),
            timeout=24 * 3600.0,
        )
        for response in responses:
            batch = response.arrow_record_batch.serialized_record_batch
            yield pa.ipc.read_record_batch(pa.py_buffer(batch), schema)


def string_literal(text: str) -> str:
    """Return a text as a string of BigQuery's SQL.

    Example:
        >>> print(string_literal("it's"))
        "it's"
    """
    return json.dumps(text, ensure_ascii=False)


def _read_client() -> BigQueryReadClient:
    return _client(os.environ.get(EMULATOR_VARIABLE), os.getpid())


@functools.lru_cache(maxsize=8)
def _client(emulator: str | None, process: int) -> BigQueryReadClient:
    # A forked process must not share the connections of its parent.
    if emulator:
        channel = grpc.insecure_channel(emulator)
        return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
    return BigQueryReadClient()
