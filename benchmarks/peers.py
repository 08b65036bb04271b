"""How others do this job: from image files to vectors in memory, with the same network.

Every function here makes one contender ready, in a process of its own. Where a peer would give
the network other pixels than it wants (VectorHub: of the original size, in 0 to 255), it gets the
right ones here, which are fewer: it is measured at what it would do best. The network is the
stand-in with random weights.
"""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from contenders import Ready, rate_between, timed_rate
from limits import EMBEDDING, IMAGES, SIDE, fastest_batch, openvino_network

from transforms.images.image_codec import decode_image
from transforms.records import Preprocessing


def one_by_one(settings: Mapping[str, Any]) -> Ready:
    """VectorHub's InceptionResnet2Vec: `bulk_encode` is a loop over `encode`, an image a call."""
    import tensorflow as tf

    function = tf.saved_model.load(settings["model"]).signatures["serving_default"]

    def encode(path: str) -> list[float]:
        image = _decoded_by_tensorflow(tf.io.read_file(path))
        vector: list[float] = function(image[None])[EMBEDDING].numpy().tolist()[0]
        return vector

    def work() -> int:
        return len([encode(path) for path in settings["paths"]])

    encode(settings["paths"][0])
    return Ready(lambda: timed_rate(work), "one image a call")


def keras_predict(settings: Mapping[str, Any]) -> Ready:
    """Keras 3: `predict` over a tf.data pipeline that reads and decodes in parallel.

    Keras 3 loads no SavedModel as a model, so it is a layer of one, as Keras advises.
    """
    import keras
    import tensorflow as tf

    layer = keras.layers.TFSMLayer(settings["model"], call_endpoint="serving_default")
    images = keras.Input((SIDE, SIDE, 3), name=IMAGES)
    network = keras.Model(images, layer(images)[EMBEDDING])
    batch_size = settings["batch_size"]

    def dataset(paths: Sequence[str]) -> Any:
        return (
            tf.data.Dataset.from_tensor_slices(list(paths))
            .map(
                lambda path: _decoded_by_tensorflow(tf.io.read_file(path)),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
            .batch(batch_size)
            .prefetch(tf.data.AUTOTUNE)
        )

    def work() -> int:
        return len(network.predict(dataset(settings["paths"]), verbose=0))

    network.predict(dataset(settings["paths"][:batch_size]), verbose=0)
    return Ready(lambda: timed_rate(work), f"batches of {batch_size}")


def beam_stock(settings: Mapping[str, Any]) -> Ready:
    """Beam's own TensorFlow handler behind a step that reads, decodes and resizes with Pillow.

    It loads a SavedModel under TF_USE_LEGACY_KERAS=1 only. Beam's local engine runs it; what
    starting and loading cost is taken off by a job of fewer images.
    """
    import apache_beam as beam
    import tensorflow as tf
    from apache_beam.ml.inference.base import RunInference
    from apache_beam.ml.inference.tensorflow_inference import TFModelHandlerTensor

    batch_size = settings["batch_size"]
    handler = TFModelHandlerTensor(
        settings["callable_model"],
        min_batch_size=batch_size,
        max_batch_size=batch_size,
    )

    def job(paths: Sequence[str]) -> tuple[int, float, float]:
        _beam_vectors.clear()
        started, processor = time.perf_counter(), time.process_time()
        options = beam.options.pipeline_options.PipelineOptions(["--runner=FnApiRunner"])
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | beam.Create(paths, reshuffle=False)
                | beam.Map(lambda path: tf.constant(_decoded_by_pillow(path)))
                | RunInference(handler)
                | beam.Map(_keep_vector)
            )
        taken = time.perf_counter() - started, time.process_time() - processor
        if len(_beam_vectors) != len(paths):
            raise RuntimeError(f"Beam gave {len(_beam_vectors)} vectors for {len(paths)} images")
        return len(paths), *taken

    few = settings["paths"][:batch_size]
    job(few)
    return Ready(
        lambda: rate_between(job(few), job(settings["paths"])),
        f"batches of {batch_size}, start-up apart",
    )


#: What Beam's job gave. Of this module, because Beam copies what its functions hold otherwise.
_beam_vectors: list[npt.NDArray[np.float32]] = []


def _keep_vector(result: Any) -> None:
    _beam_vectors.append(np.asarray(result.inference))


def openvino_loop(settings: Mapping[str, Any]) -> Ready:
    """OpenVINO behind a plain loop: a pool of threads decodes ahead of the batches."""
    run = openvino_network(settings["model"], settings["precision"])
    batch_size = fastest_batch(run, settings["batch_sizes"])

    def work() -> int:
        with ThreadPoolExecutor(settings["threads"]) as pool:
            vectors = [run(batch) for batch in _batches(pool, settings["paths"], batch_size)]
        return sum(map(len, vectors))

    return Ready(
        lambda: timed_rate(work), f"batches of {batch_size}, {settings['threads']} threads decode"
    )


def _batches(
    pool: ThreadPoolExecutor, paths: Sequence[str], batch_size: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Decode in the pool, at most two batches ahead of the one that is given."""
    starts = range(0, len(paths), batch_size)
    waiting = (
        [pool.submit(_decoded_by_pillow, path) for path in paths[start : start + batch_size]]
        for start in starts
    )
    ahead = list(itertools.islice(waiting, 2))
    while ahead:
        ahead.extend(itertools.islice(waiting, 1))
        yield np.stack([future.result() for future in ahead.pop(0)])


def _decoded_by_pillow(path: str) -> npt.NDArray[np.float32]:
    pixels = decode_image(Path(path).read_bytes(), Preprocessing(SIDE, SIDE)).pixels
    return pixels.astype(np.float32) / np.float32(255)


def _decoded_by_tensorflow(content: Any) -> Any:
    import tensorflow as tf

    image = tf.io.decode_jpeg(content, channels=3)
    return tf.image.resize(image, [SIDE, SIDE], antialias=True) / 255.0
