"""What `describe_model` finds in real, tiny SavedModels, and how it refuses the others."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import SIGNATURE_INPUT, SIGNATURE_OUTPUT, save_tiny_model

from transforms.errors import UnusableModel
from transforms.models.model_description import describe_model

ROOT = Path(__file__).parents[3]
MOBILENET = ROOT.parent / "shared" / "data" / "models" / "mobilenet_v1_feature_vector"


def save(folder: Path, call: Any, *shape: int | None, **signatures: Any) -> str:
    """Save a model whose `__call__` takes one float tensor of this shape."""
    import tensorflow as tf

    model = tf.train.Checkpoint()
    specification = tf.TensorSpec(shape, tf.float32, name="images")
    model.__call__ = tf.function(call, input_signature=[specification])
    traced = {
        name: tf.function(function, input_signature=[specification])
        for name, function in signatures.items()
    }
    tf.saved_model.save(model, str(folder), signatures=traced)
    return str(folder)


def pooled(images: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_mean(images, [1, 2])


def test_the_call_interface_is_described(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path, embedding_width=5, image_height=24, image_width=40)
    description = describe_model(path)
    assert description.path == path
    assert (description.input_height, description.input_width) == (24, 40)
    assert description.fixed_size
    assert description.embedding_width == 5
    assert description.entry_point == "__call__"
    assert (description.input_key, description.output_key) == (None, None)
    assert not description.untrained
    assert len(description.fingerprint) == 16
    assert int(description.fingerprint, 16) >= 0


def test_the_key_names_of_serving_default_are_read(tmp_path: Path) -> None:
    description = describe_model(save_tiny_model(tmp_path, interface="serving_default"))
    assert description.entry_point == "serving_default"
    assert description.input_key == SIGNATURE_INPUT
    assert description.output_key == SIGNATURE_OUTPUT
    assert (description.input_height, description.embedding_width) == (32, 8)


def test_a_model_of_any_size_states_none(tmp_path: Path) -> None:
    description = describe_model(save_tiny_model(tmp_path, image_height=None, image_width=None))
    assert (description.input_height, description.input_width) == (None, None)
    assert not description.fixed_size
    assert description.embedding_width == 8


def test_model_json_states_the_usual_size_of_a_model_of_any_size(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path, image_height=None, image_width=None)
    plain = describe_model(path)
    facts = {"input_height": 48, "input_width": 64, "embedding_width": 8, "untrained": True}
    (tmp_path / "model.json").write_text(json.dumps(facts))
    description = describe_model(path)
    assert (description.input_height, description.input_width) == (48, 64)
    assert not description.fixed_size
    assert description.untrained
    assert description.fingerprint == plain.fingerprint


def test_model_json_states_the_width_that_the_graph_leaves_open(tmp_path: Path) -> None:
    def call(images: Any) -> Any:
        import tensorflow as tf

        return tf.reshape(pooled(images), tf.stack([tf.shape(images)[0], -1]))

    path = save(tmp_path, call, None, 32, 32, 3)
    assert describe_model(path).embedding_width is None
    (tmp_path / "model.json").write_text('{"embedding_width": 3}')
    assert describe_model(path).embedding_width == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is no JSON file"),
        ("[1]", "must hold a JSON object, not list"),
        ('{"input_height": "32"}', "input_height '32'"),
        ('{"input_width": 0}', "input_width 0"),
        ('{"embedding_width": true}', "embedding_width True"),
        ('{"embedding_width": 1536}', "says embedding_width 1536, but the model itself has 8"),
        ('{"input_height": 299}', "says input_height 299, but the model itself has 32"),
        ('{"kind": "detection"}', "kind 'detection'; use feature_vector or classification"),
    ],
)
def test_a_model_json_that_is_wrong_is_refused(tmp_path: Path, content: str, told: str) -> None:
    path = save_tiny_model(tmp_path)
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(UnusableModel, match=told):
        describe_model(path)


@pytest.mark.parametrize("interface", ["call", "serving_default"])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("four_dimensional", r"gives a 4-D feature map, .*float32 \[n, 16, 16, 8\]"),
        ("integers", r"gives .*int32 \[n, 8\]"),
        ("two_inputs", r"takes 2 tensors \(.*float32 \[n, 32, 32, 3\], .*float32 \[n, 32, 32, 3\]"),
        ("text", r"takes .*string \[n\], which is no batch of RGB images, and gives .*float32"),
    ],
)
def test_what_is_no_image_feature_model_is_refused_with_what_was_found(
    tmp_path: Path, interface: Any, fault: str, told: str
) -> None:
    path = save_tiny_model(tmp_path, interface=interface, fault=fault)
    with pytest.raises(UnusableModel, match=told):
        describe_model(path)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((4, 32, 32, 3), "batches of 4 only"),
        ((None, 32, 32, 1), r"float32 \[n, 32, 32, 1\], which is no batch of RGB images"),
        ((None, 32, 32), "no batch of RGB images"),
        ((None, 3, None, None), "no batch of RGB images"),
    ],
)
def test_other_inputs_are_refused(tmp_path: Path, shape: tuple[int | None, ...], told: str) -> None:
    def call(tensor: Any) -> Any:
        import tensorflow as tf

        return tf.reshape(tensor, [tf.shape(tensor)[0], -1])

    with pytest.raises(UnusableModel, match=told):
        describe_model(save(tmp_path, call, *shape))


def test_of_several_vectors_the_one_called_default_is_taken(tmp_path: Path) -> None:
    def several(images: Any) -> dict[str, Any]:
        return {"default": pooled(images), "another": pooled(images) * 2, "map": images}

    path = save(tmp_path, pooled, None, 32, 32, 3, serving_default=several)
    description = describe_model(path)
    assert (description.entry_point, description.output_key) == ("serving_default", "default")


def test_the_only_vector_among_several_results_is_taken(tmp_path: Path) -> None:
    def several(images: Any) -> dict[str, Any]:
        return {"map": images, "vector": pooled(images)}

    assert describe_model(save(tmp_path, several, None, 32, 32, 3)).output_key == "vector"


def test_several_vectors_without_a_default_are_refused_by_name(tmp_path: Path) -> None:
    def several(images: Any) -> dict[str, Any]:
        return {"left": pooled(images), "right": pooled(images)}

    path = save(tmp_path, several, None, 32, 32, 3)
    with pytest.raises(UnusableModel, match=r"left float32 \[n, 3\], right float32 \[n, 3\]"):
        describe_model(path)


def test_a_signature_that_gives_no_vector_leads_to_the_call(tmp_path: Path) -> None:
    def feature_map(images: Any) -> dict[str, Any]:
        return {"map": images}

    path = save(tmp_path, pooled, None, 32, 32, 3, serving_default=feature_map)
    assert describe_model(path).entry_point == "__call__"


def test_a_model_that_can_only_train_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    def call(images: Any, training: bool) -> Any:
        return pooled(images) if training else None

    model = tf.train.Checkpoint()
    model.__call__ = tf.function(call)
    model.__call__.get_concrete_function(tf.TensorSpec([None, 8, 8, 3]), training=True)
    tf.saved_model.save(model, str(tmp_path), signatures={})
    with pytest.raises(UnusableModel, match="training=False"):
        describe_model(str(tmp_path))


@pytest.mark.parametrize(
    ("tag", "told"),
    [("serve", "it has no signature"), ("train", r"tagged 'serve'.*\['train'\]")],
)
def test_a_tensorflow_1_saved_model_without_a_way_in_is_refused(
    tmp_path: Path, tag: str, told: str
) -> None:
    import tensorflow as tf

    builder = tf.compat.v1.saved_model.builder.SavedModelBuilder(str(tmp_path / "model"))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3])
        builder.add_meta_graph_and_variables(session, [tag])
    builder.save()
    with pytest.raises(UnusableModel, match=told):
        describe_model(str(tmp_path / "model"))


def test_a_cut_saved_model_is_refused(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path)
    file = tmp_path / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UnusableModel, match="cut or corrupt"):
        describe_model(path)


@pytest.mark.parametrize("missing", ["", "variables.index", "variables.data-00000-of-00001"])
def test_a_model_without_its_weights_is_refused(tmp_path: Path, missing: str) -> None:
    path = save_tiny_model(tmp_path)
    if missing:
        (tmp_path / "variables" / missing).unlink()
    else:
        shutil.rmtree(tmp_path / "variables")
    with pytest.raises(UnusableModel, match="the weights"):
        describe_model(path)


def test_cut_weights_are_refused(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path)
    file = tmp_path / "variables" / "variables.data-00000-of-00001"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UnusableModel, match="incomplete or corrupt"):
        describe_model(path)


@pytest.mark.skipif(not MOBILENET.exists(), reason=f"no real MobileNet at {MOBILENET}")
def test_a_real_mobilenet_is_described() -> None:
    description = describe_model(str(MOBILENET))
    assert (description.input_height, description.input_width) == (224, 224)
    assert description.embedding_width == 1024
    assert description.entry_point == "serving_default"
    assert (description.input_key, description.output_key) == ("inputs", "default")


def test_importing_the_libraries_imports_no_tensorflow() -> None:
    code = (
        "import sys, transforms.networks.hub_model, transforms.models.model_description; "
        "sys.exit(any(name.startswith(('tensorflow', 'keras')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
