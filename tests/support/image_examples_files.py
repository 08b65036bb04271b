"""TFRecord files of tf.Examples, written by TensorFlow."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf


def example(features: Mapping[str, Any]) -> bytes:
    """Serialise an example; a value or a list of values of bytes, int or float each."""
    message = tf.train.Example()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = message.features.feature[name]
        if not values:
            continue
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        else:
            feature.float_list.value.extend(values)
    return message.SerializeToString()


def write_examples(path: Path, records: Iterable[Mapping[str, Any] | bytes]) -> Path:
    """Write examples, or records that are none; with gzip where the name ends with .gz."""
    compression = "GZIP" if path.suffix == ".gz" else None
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record if isinstance(record, bytes) else example(record))
    return path
