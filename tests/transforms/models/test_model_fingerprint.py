"""The fingerprint changes with what decides the vectors, and with nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import save_tiny_model

from transforms.models.model_description import describe_model

ROOT = Path(__file__).parents[3]


def fingerprint(path: str | Path) -> str:
    return describe_model(str(path)).fingerprint


def save_call(folder: Path, call: Any, **objects: Any) -> Path:
    """Save a model of 16 x 16 images with these objects beside its `__call__`."""
    import tensorflow as tf

    model = tf.train.Checkpoint(**objects)
    specification = tf.TensorSpec([None, 16, 16, 3], tf.float32)
    model.__call__ = tf.function(call, input_signature=[specification])
    tf.saved_model.save(model, str(folder), signatures={})
    return folder


@pytest.mark.parametrize("interface", ["call", "serving_default"])
def test_saving_the_same_model_twice_gives_one_fingerprint(tmp_path: Path, interface: Any) -> None:
    first = save_tiny_model(tmp_path / "first", interface=interface)
    # The names of functions and operations are counted up by all that is built in between.
    save_tiny_model(tmp_path / "between", seed=7, embedding_width=3)
    second = save_tiny_model(tmp_path / "second", interface=interface)
    pb = "saved_model.pb"
    assert (Path(first) / pb).read_bytes() != (Path(second) / pb).read_bytes()
    assert fingerprint(first) == fingerprint(second)


def test_another_process_saves_a_model_of_the_same_fingerprint(tmp_path: Path) -> None:
    here = save_tiny_model(tmp_path / "here")
    code = (
        "import sys; sys.path.insert(0, 'tests/support'); from tiny_models import save_tiny_model\n"
        "save_tiny_model(sys.argv[1] + '/other', seed=5, interface='serving_default')\n"
        "save_tiny_model(sys.argv[1] + '/there')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)
    assert fingerprint(here) == fingerprint(tmp_path / "there")
    assert fingerprint(here) != fingerprint(tmp_path / "other")


def test_a_copy_elsewhere_has_the_same_fingerprint(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "model")
    shutil.copytree(path, tmp_path / "deep" / "copy")
    assert fingerprint(path) == fingerprint(tmp_path / "deep" / "copy")


def test_one_weight_changed_by_the_last_bit_changes_the_fingerprint(tmp_path: Path) -> None:
    import tensorflow as tf

    def save(folder: Path, weight: np.float32) -> Path:
        weights = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
        weights[1, 2] = weight
        variable = tf.Variable(weights)
        return save_call(
            folder, lambda images: tf.reduce_mean(images, [1, 2]) @ variable, weights=variable
        )

    half = np.float32(0.5)
    same = fingerprint(save(tmp_path / "first", half))
    assert fingerprint(save(tmp_path / "second", half)) == same
    assert fingerprint(save(tmp_path / "third", np.nextafter(half, np.float32(1)))) != same


def test_a_changed_constant_in_the_graph_changes_the_fingerprint(tmp_path: Path) -> None:
    usual = fingerprint(save_tiny_model(tmp_path / "usual"))
    assert fingerprint(save_tiny_model(tmp_path / "scaled", scale=1 / 255)) != usual


def test_a_changed_operation_changes_the_fingerprint(tmp_path: Path) -> None:
    import tensorflow as tf

    mean = save_call(tmp_path / "mean", lambda images: tf.reduce_mean(images, [1, 2]))
    largest = save_call(tmp_path / "max", lambda images: tf.reduce_max(images, [1, 2]))
    assert fingerprint(mean) != fingerprint(largest)


def test_swapped_inputs_change_the_fingerprint(tmp_path: Path) -> None:
    import tensorflow as tf

    def difference(images: Any, sign: int) -> Any:
        mean, largest = tf.reduce_mean(images, [1, 2]), tf.reduce_max(images, [1, 2])
        return mean - largest if sign > 0 else largest - mean

    one = save_call(tmp_path / "one", lambda images: difference(images, 1))
    other = save_call(tmp_path / "other", lambda images: difference(images, -1))
    assert fingerprint(one) != fingerprint(other)


def test_variables_that_change_places_change_the_fingerprint(tmp_path: Path) -> None:
    import tensorflow as tf

    first, second = tf.Variable([1.0, 2.0, 3.0]), tf.Variable([3.0, 2.0, 1.0])
    objects = {"first": first, "second": second}
    straight = save_call(
        tmp_path / "straight", lambda i: tf.reduce_mean(i, [1, 2]) * first + second, **objects
    )
    crossed = save_call(
        tmp_path / "crossed", lambda i: tf.reduce_mean(i, [1, 2]) * second + first, **objects
    )
    assert fingerprint(straight) != fingerprint(crossed)


@pytest.mark.parametrize("place", ["then", "while"])
def test_a_constant_inside_control_flow_changes_the_fingerprint(tmp_path: Path, place: str) -> None:
    import tensorflow as tf

    def call(images: Any, step: float) -> Any:
        vectors = tf.reduce_mean(images, [1, 2])
        if place == "then":
            bright = tf.reduce_mean(images) > 0.5
            return tf.cond(bright, lambda: vectors * step, lambda: vectors)
        loop = tf.while_loop(
            lambda count, _: count < 3, lambda count, v: (count + 1, v * step), (0, vectors)
        )
        return loop[1]

    first = save_call(tmp_path / "first", lambda images: call(images, 2.0))
    again = save_call(tmp_path / "again", lambda images: call(images, 2.0))
    other = save_call(tmp_path / "other", lambda images: call(images, 3.0))
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_a_loop_of_tensorflow_1_is_fingerprinted(tmp_path: Path) -> None:
    import tensorflow as tf

    def looping_graph(step: float) -> Any:
        tf.compat.v1.disable_control_flow_v2()
        try:
            with tf.Graph().as_default() as graph:
                images = tf.compat.v1.placeholder(tf.float32, [None, 16, 16, 3], "images")
                _, vectors = tf.while_loop(
                    lambda count, _: count < 3,
                    lambda count, v: (count + 1, v * step),
                    (0, tf.reduce_mean(images, [1, 2])),
                )
                tf.identity(vectors, "vectors")
        finally:
            tf.compat.v1.enable_control_flow_v2()
        return graph.as_graph_def()

    def save(name: str, step: float) -> Path:
        graph = looping_graph(step)
        assert "NextIteration" in {node.op for node in graph.node}

        def call(images: Any) -> Any:
            (vectors,) = tf.graph_util.import_graph_def(
                graph, input_map={"images:0": images}, return_elements=["vectors:0"]
            )
            return vectors

        return save_call(tmp_path / name, call)

    first, again, other = save("first", 2.0), save("again", 2.0), save("other", 3.0)
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_a_graph_without_variables_has_a_fingerprint(tmp_path: Path) -> None:
    import tensorflow as tf

    def frozen(value: float) -> Any:
        weights = np.full((3, 4), value, np.float32)
        return lambda images: tf.reduce_mean(images, [1, 2]) @ tf.constant(weights)

    first = save_call(tmp_path / "first", frozen(1.0))
    shutil.rmtree(first / "variables")
    again = save_call(tmp_path / "again", frozen(1.0))
    other = save_call(tmp_path / "other", frozen(2.0))
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_a_captured_constant_counts(tmp_path: Path) -> None:
    import tensorflow as tf

    def save(name: str, value: float) -> Path:
        captured = tf.constant([value, 1.0, 1.0])
        return save_call(tmp_path / name, lambda images: tf.reduce_mean(images, [1, 2]) * captured)

    first, again, other = save("first", 1.0), save("again", 1.0), save("other", 2.0)
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_a_table_and_its_asset_count(tmp_path: Path) -> None:
    import tensorflow as tf

    def save(name: str, content: str) -> Path:
        (tmp_path / name).mkdir()
        file = tmp_path / name / "scales.txt"
        file.write_text(content)
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                str(file),
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
                tf.int64,
                tf.lookup.TextFileIndex.WHOLE_LINE,
            ),
            default_value=-1,
        )

        def call(images: Any) -> Any:
            return tf.reduce_mean(images, [1, 2]) * tf.cast(
                table.lookup(tf.constant([0, 1, 2], tf.int64)), tf.float32
            )

        return save_call(tmp_path / name / "model", call, table=table)

    first, again, other = (
        save("first", "1\n2\n3"),
        save("again", "1\n2\n3"),
        save("other", "1\n2\n4"),
    )
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_a_very_deep_network_has_a_fingerprint(tmp_path: Path) -> None:
    import tensorflow as tf

    def call(images: Any) -> Any:
        vectors = tf.reduce_mean(images, [1, 2])
        for _ in range(2 * sys.getrecursionlimit()):
            vectors = tf.identity(vectors)
        return vectors

    assert len(fingerprint(save_call(tmp_path, call))) == 16


def test_the_training_trace_has_no_part_in_it(tmp_path: Path) -> None:
    import tensorflow as tf

    def save(name: str, trained: float, used: float = 1.0) -> str:
        def call(images: Any, training: bool = False) -> Any:
            return tf.reduce_mean(images, [1, 2]) * (trained if training else used)

        model = tf.train.Checkpoint()
        model.__call__ = tf.function(call)
        for training in (True, False):
            specification = tf.TensorSpec([None, 16, 16, 3], tf.float32)
            model.__call__.get_concrete_function(specification, training=training)
        tf.saved_model.save(model, str(tmp_path / name), signatures={})
        return str(tmp_path / name)

    first, other, used = save("first", 2.0), save("other", 3.0), save("used", 2.0, used=5.0)
    assert fingerprint(first) == fingerprint(other) != fingerprint(used)
