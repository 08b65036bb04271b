"""Each stage of the job alone, on one thread, by turns in one process.

The network is not among them: it is measured as `handler`, beside the bare networks.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from contenders import Measures, Ready
from made_up_embeddings import WIDTH, some_embeddings

from transforms.formats import tf_example
from transforms.formats.embedding_rows import RowStamp, embedding_rows, rows_schema
from transforms.formats.embedding_table import Provenance
from transforms.formats.row_files import RowFile, rows_at_once
from transforms.images.image_codec import decode_image
from transforms.records import Embedding, OutputLayout, Preprocessing
from transforms.sources.image_reading import read_image
from transforms.storage.file_listing import list_files

LAYOUT = OutputLayout(embedding_width=WIDTH)
STAMP = RowStamp(
    Provenance("gs://models/inception_resnet_v2", "0123456789abcdef", "fedcba9876543210"),
    "20261120T063000Z-0123abcd",
    LAYOUT,
)
#: As many as the steps encode, or make rows of, in one call.
AT_ONCE = 512

#: As many as the reader decodes in one call.
DECODED_AT_ONCE = 1024


def stages(settings: Mapping[str, Any]) -> Ready:
    """Make every stage ready; a round measures each of them once, in images a second."""
    # The temporary folder lives as long as the closures that write into it.
    folder = tempfile.TemporaryDirectory(prefix="benchmark-")
    ways = {
        **_files(settings["folder"]),
        **_examples(Path(folder.name)),
        **_writing(Path(folder.name)),
    }
    for way in ways.values():
        way()

    def measure() -> Measures:
        assert folder.name
        return {name: _rate(way, settings["seconds"]) for name, way in ways.items()}

    return Ready(measure, "one thread")


def _rate(way: Callable[[], int], at_least_seconds: float) -> float:
    images = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < at_least_seconds:
        images += way()
    return images / elapsed


Ways = dict[str, Callable[[], int]]


def _files(folder: str) -> Ways:
    refs = [file.ref for file in list_files(folder)]
    contents = [read_image(ref).content for ref in refs[:32]]
    contract = Preprocessing(299, 299)

    def listed() -> int:
        return sum(1 for _ in list_files(folder))

    def read() -> int:
        return sum(1 for ref in refs if read_image(ref).sha256)

    def decoded() -> int:
        return sum(1 for content in contents if decode_image(content, contract).format)

    return {"list": listed, "read and hash": read, "decode and resize": decoded}


def _examples(folder: Path) -> Ways:
    """The encoder and the decoder beside the bare calls, and beside tf.train.Example."""
    import tensorflow as tf
    from tfx_bsl.coders.example_coder import (
        ExamplesToRecordBatchDecoder,
        RecordBatchToExamplesEncoder,
    )

    embeddings = some_embeddings(AT_ONCE)
    examples = tf_example.encode_embeddings(embeddings, STAMP.provenance, LAYOUT)
    schema_path = folder / "schema.pbtxt"
    schema_path.write_text(tf_example.embeddings_schema_text(LAYOUT))
    schema = tf_example._read_schema(str(schema_path))
    decoder = ExamplesToRecordBatchDecoder(tf_example.embeddings_schema(LAYOUT).SerializeToString())
    ready_batch: pa.RecordBatch = decoder.DecodeBatch(examples)
    stored = examples * (DECODED_AT_ONCE // AT_ONCE)
    shard = folder / "embeddings-00000-of-00001.tfrecord"
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for example in stored * 2:
            writer.write(example)

    def proto(embedding: Embedding) -> bytes:
        info = embedding.info
        generation = info.origin.generation or ""
        texts = {
            "image/uri": info.uri,
            "image/sha256": info.sha256,
            "image/generation": generation,
            "image/format": info.format,
            "model/handle": STAMP.provenance.model_handle,
            "model/fingerprint": STAMP.provenance.model_fingerprint,
            "model/precision": STAMP.provenance.precision,
            "preprocess/fingerprint": STAMP.provenance.preprocess_fingerprint,
        }
        features = {
            name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
            for name, text in texts.items()
        }
        for name, number in (("image/height", info.height), ("image/width", info.width)):
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[number]))
        # A list is four times as fast as the array itself.
        floats = tf.train.FloatList(value=embedding.vector.tolist())
        features["embedding"] = tf.train.Feature(float_list=floats)
        example = tf.train.Example(features=tf.train.Features(feature=features))
        content: bytes = example.SerializeToString()
        return content

    def parsed(content: bytes) -> np.ndarray:
        feature = tf.train.Example.FromString(content).features.feature
        return np.array(feature["embedding"].float_list.value, np.float32)

    def whole_file() -> int:
        return len(tf_example.read_tfrecord_shards([str(shard)], str(schema_path)).uris)

    return {
        "encode": lambda: len(tf_example.encode_embeddings(embeddings, STAMP.provenance, LAYOUT)),
        "encode, tfx-bsl alone": lambda: len(RecordBatchToExamplesEncoder().encode(ready_batch)),
        "encode, tf.train.Example": lambda: len([proto(each) for each in embeddings]),
        "decode": lambda: len(
            tf_example._table(schema.decoder.DecodeBatch(stored), schema, None).uris
        ),
        "decode, tfx-bsl alone": lambda: decoder.DecodeBatch(stored).num_rows,
        "decode, tf.train.Example": lambda: len([parsed(content) for content in stored]),
        "read a TFRecord file": whole_file,
    }


def _writing(folder: Path) -> Ways:
    """From embeddings to files, as the sinks of the steps write them."""
    from apache_beam.coders import BytesCoder
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.tfrecordio import _TFRecordSink

    from transforms.step_parts.parquet_sink import ParquetSink
    from transforms.write_table_rows import make_rows

    embeddings = some_embeddings(rows_at_once(WIDTH))
    parts = [embeddings[at : at + AT_ONCE] for at in range(0, len(embeddings), AT_ONCE)]
    schema = rows_schema(LAYOUT, (), vectors="float32")
    tfrecords = _TFRecordSink(
        str(folder / "tfrecords"), BytesCoder(), "", 1, None, CompressionTypes.UNCOMPRESSED
    )
    parquet = ParquetSink(str(folder / "parquet"), schema, 1)

    def write(sink: Any, encode: Callable[[Sequence[Embedding]], Any]) -> int:
        path = str(folder / "written")
        file = sink.open(path)
        for part in parts:
            for record in encode(part):
                sink.write_record(file, record)
        sink.close(file)
        return len(embeddings)

    def table_rows() -> int:
        rows, failures = make_rows(embeddings, STAMP)
        file = RowFile(str(folder / "rows.parquet"), rows.schema)
        file.write(rows)
        file.close()
        return len(embeddings) - len(failures)

    encode = partial(tf_example.encode_embeddings, provenance=STAMP.provenance, layout=LAYOUT)
    return {
        "encode and write TFRecords": lambda: write(tfrecords, encode),
        "encode and write Parquet": lambda: write(
            parquet, lambda part: [embedding_rows(part, STAMP, vectors="float32")]
        ),
        "encode and write BigQuery rows": table_rows,
    }
