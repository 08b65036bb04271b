"""What the machine and its engines can do at best: matrix products, and the network alone.

Every function here makes one contender ready, in a process of its own.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from contenders import LeftOut, Measures, Ready, timed_rate

SIDE = 299
BATCH_SIZES = (8, 16, 32)
FLOATING = {"float32": "f32", "bfloat16": "bf16"}

#: The name of the input of `save_plain_model`, and of its result.
IMAGES, EMBEDDING = "images", "embedding"

#: Large enough that a product takes tenths of a second, small enough for a few hundred megabytes.
_MATRIX_SIDE = 4096


def save_plain_model(folder: str) -> None:
    """Save the stand-in (random weights) with a signature, for all engines, and facts.json.

    The signature takes float32 [n, 299, 299, 3] in [0, 1]. The facts are where a callable form of
    the same model lies, and the GFLOP of an image, by all operations of the graph, of which
    convolutions and matrix products are nearly all; a multiply-add counts as two.
    """
    import tensorflow as tf

    from transforms.models.untrained_model import untrained_model_folder

    callable_model = untrained_model_folder()
    network = tf.saved_model.load(callable_model)

    def embed(images: Any) -> dict[str, Any]:
        return {EMBEDDING: network(images, training=False)}

    def function(count: int | None) -> Any:
        specification = tf.TensorSpec([count, SIDE, SIDE, 3], tf.float32, name=IMAGES)
        return tf.function(embed, input_signature=[specification], autograph=False)

    module = tf.Module()
    module.network = network
    tf.saved_model.save(module, folder, signatures={"serving_default": function(None)})
    options = tf.compat.v1.profiler.ProfileOptionBuilder
    profile = tf.compat.v1.profiler.profile(
        _frozen(function(1).get_concrete_function()).graph,
        options=options(options.float_operation()).with_empty_output().build(),
    )
    facts = {"callable_model": callable_model, "gigaflop": profile.total_float_ops / 1e9}
    Path(folder, "facts.json").write_text(json.dumps(facts))


def matrix_peak(settings: Mapping[str, Any]) -> Ready:
    """TensorFlow's product (oneDNN) of two large matrices: GFLOP/s of its fastest repetition."""
    import tensorflow as tf

    dtype = tf.dtypes.as_dtype(settings["precision"])
    matrices = [tf.cast(tf.constant(matrix), dtype) for matrix in _some_matrices()]
    product = tf.function(tf.matmul, autograph=False).get_concrete_function(*matrices)
    return _fastest_product(lambda: product(*matrices)[0, 0].numpy(), settings)


def matrix_peak_openvino(settings: Mapping[str, Any]) -> Ready:
    """OpenVINO's product of two large matrices: GFLOP/s of its fastest repetition."""
    openvino = _openvino()
    from openvino import opset13

    left, right = _some_matrices()
    parameter = opset13.parameter(left.shape, np.float32)
    model = openvino.Model([opset13.matmul(parameter, right, False, False)], [parameter])
    compiled = _compiled(model, settings["precision"])
    return _fastest_product(lambda: compiled(left), settings)


def _some_matrices() -> list[npt.NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.random((_MATRIX_SIDE, _MATRIX_SIDE), np.float32) for _ in range(2)]


def _fastest_product(multiply: Callable[[], Any], settings: Mapping[str, Any]) -> Ready:
    multiply()

    def measure() -> Measures:
        seconds = min(_seconds(multiply) for _ in range(settings["repetitions"]))
        return {"GFLOP/s": 2 * _MATRIX_SIDE**3 / seconds / 1e9}

    return Ready(measure, f"{_MATRIX_SIDE} x {_MATRIX_SIDE}, the fastest of each round")


def bare_tensorflow(settings: Mapping[str, Any]) -> Ready:
    """The network alone in TensorFlow: the SavedModel as it is, or in its own mixed precision."""
    run = tensorflow_network(settings["model"], settings["precision"])
    batch_size = fastest_batch(run, settings["batch_sizes"])
    return Ready(_repeated(run, batch_size, settings["images"]), f"batches of {batch_size}")


def bare_openvino(settings: Mapping[str, Any]) -> Ready:
    """The network alone in OpenVINO, converted from the same SavedModel."""
    run = openvino_network(settings["model"], settings["precision"])
    batch_size = fastest_batch(run, settings["batch_sizes"])
    return Ready(_repeated(run, batch_size, settings["images"]), f"batches of {batch_size}")


def tensorflow_network(
    folder: str, precision: str
) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """Load the plain model in TensorFlow.

    In float32 its signature is called as it was saved. In bfloat16 TensorFlow freezes it and casts
    it by its own rule, auto_mixed_precision_onednn_bfloat16, as for the whole process.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)
    function = loaded.signatures["serving_default"]
    if precision == "float32":
        return lambda images: np.asarray(function(tf.constant(images))[EMBEDDING])
    image = tf.constant(some_images(1))
    in_float32 = function(image)[EMBEDDING]
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    frozen = _frozen(function)
    if np.array_equal(frozen(image)[0], in_float32):
        raise LeftOut("TensorFlow gives the vectors of float32: it does not compute in bfloat16")
    return lambda images: np.asarray(frozen(tf.constant(images))[0])


def openvino_network(
    folder: str, precision: str
) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """Load the plain model in OpenVINO, which is to compute in the precision.

    Raises:
        LeftOut: it computes in another one.
    """
    openvino = _openvino()
    compiled = _compiled(openvino.convert_model(folder), precision)
    return lambda images: np.asarray(compiled(images)[0])


def _openvino() -> Any:
    # With this, openvino.convert_model would report its use to its makers.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


def _compiled(model: Any, precision: str) -> Any:
    openvino = _openvino()
    wanted = FLOATING[precision]
    hints = {"INFERENCE_PRECISION_HINT": wanted, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    given = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if given != wanted:
        raise LeftOut(f"OpenVINO computes in {given} on this machine, not in {wanted}")
    return compiled


def fastest_batch(run: Callable[[npt.NDArray[np.float32]], Any], batch_sizes: Sequence[int]) -> int:
    """Return the batch size with the most images a second, best of two calls after a first one."""
    seconds = {}
    for size in batch_sizes:
        images = some_images(size)
        run(images)
        seconds[size] = min(_seconds(partial(run, images)) for _ in range(2)) / size
    return min(seconds, key=seconds.__getitem__)


def some_images(count: int) -> npt.NDArray[np.float32]:
    """Return noise in [0, 1], as large as the network wants it."""
    return np.random.default_rng(0).random((count, SIDE, SIDE, 3), np.float32)


def _repeated(
    run: Callable[[npt.NDArray[np.float32]], Any], batch_size: int, images: int
) -> Callable[[], Measures]:
    batch = some_images(batch_size)
    batches = max(2, -(-images // batch_size))

    def work() -> int:
        for _ in range(batches):
            run(batch)
        return batches * batch_size

    run(batch)
    return lambda: timed_rate(work)


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _frozen(function: Any) -> Any:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function)
