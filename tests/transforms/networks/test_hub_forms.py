"""Every published form of a hub module, described, loaded and run; and models that users save."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hub_modules import FORMS, IMAGE_SIZE, Form, save_hub_module, save_tf1_module
from hub_networks import CLASSES, TinyNetwork

from transforms.errors import UnusableModel
from transforms.models.model_description import describe_model
from transforms.networks.hub_model import HubImageModel, try_model, try_outputs
from transforms.records import ModelRequest

WIDTH = 8
FEATURES = "TinyNet/SpatialSqueeze"
LOGITS = ModelRequest(wanted=("logits",))
BOTH = ModelRequest(wanted=("embedding", "logits"))
LOGITS_ONLY = (
    r"gives logits only \(.*float32 \[n, 1001\]\), so there is no embedding in its results; name "
    "the tensor of the embedding with model.output, or use a feature_vector model"
)


@pytest.fixture(scope="module")
def network() -> TinyNetwork:
    return TinyNetwork(embedding_width=WIDTH)


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> dict[str, str]:
    """One module of each published form, all with the same weights."""
    folder = tmp_path_factory.mktemp("modules")
    return {form: save_hub_module(folder / form, form, network) for form in FORMS}


def images(count: int, height: int = IMAGE_SIZE, width: int = IMAGE_SIZE) -> npt.NDArray[np.uint8]:
    random = np.random.RandomState(1)
    tint = random.randint(0, 256, (count, 1, 1, 3))
    return ((tint + random.randint(0, 256, (count, height, width, 3))) // 2).astype(np.uint8)


def load(path: str, request: ModelRequest | None = None, size: int = IMAGE_SIZE) -> HubImageModel:
    return HubImageModel.load(describe_model(path, request), height=size, width=size)


def embed(path: str, request: ModelRequest | None = None) -> npt.NDArray[np.float32]:
    model = load(path, request)
    assert try_model(model, IMAGE_SIZE, IMAGE_SIZE) == model.embedding_width
    return model.embed(images(5))


def expected(network: TinyNetwork, output: str) -> npt.NDArray[np.float32]:
    scaled = (images(5) / 255).astype(np.float32)
    values: npt.NDArray[np.float32] = network(scaled, False, 0.99)[output].numpy()
    return values


def cosine_distance(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> float:
    left, right = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float((1 - (left * right).sum(axis=1) / norms).max())


def fingerprint(path: str, request: ModelRequest | None = None) -> str:
    return describe_model(path, request).fingerprint


@pytest.mark.parametrize(
    ("form", "entry_point", "input_key", "output_key", "side", "fixed"),
    [
        ("feature_vector/1", "image_feature_vector", "images", "default", 299, True),
        ("feature_vector/3", "image_feature_vector", "images", "default", 299, False),
        ("feature_vector/4", "__call__", None, None, None, False),
        ("feature_vector/5", "serving_default", "inputs", "default", None, False),
        ("classification/1", "image_feature_vector", "images", "default", 299, True),
        ("classification/3", "image_feature_vector", "images", "default", 299, False),
    ],
)
def test_a_published_form_gives_the_feature_vector(
    modules: dict[str, str],
    network: TinyNetwork,
    form: Form,
    entry_point: str,
    input_key: str | None,
    output_key: str | None,
    side: int | None,
    fixed: bool,
) -> None:
    description = describe_model(modules[form])
    assert (description.entry_point, description.input_key) == (entry_point, input_key)
    assert description.output_key == output_key
    assert (description.input_height, description.input_width) == (side, side)
    assert description.fixed_size == fixed
    assert [(i.name, i.key, i.width) for i in description.outputs] == [
        ("embedding", output_key, WIDTH)
    ]
    assert cosine_distance(embed(modules[form]), expected(network, "feature_vector")) < 1e-6


@pytest.mark.parametrize(
    ("form", "entry_point"),
    [
        ("classification/1", "image_classification"),
        ("classification/3", "image_classification"),
        ("classification/4", "__call__"),
        ("classification/5", "serving_default"),
    ],
)
def test_a_published_classifier_gives_its_logits(
    modules: dict[str, str], network: TinyNetwork, form: Form, entry_point: str
) -> None:
    description = describe_model(modules[form], LOGITS)
    assert description.entry_point == entry_point
    assert [(i.name, i.width) for i in description.outputs] == [("logits", CLASSES)]
    assert cosine_distance(embed(modules[form], LOGITS), expected(network, "logits")) < 1e-6


def test_all_forms_of_the_same_weights_give_the_same_vectors(modules: dict[str, str]) -> None:
    named = ModelRequest(output=FEATURES)
    vectors = [
        embed(path, named if form in ("classification/4", "classification/5") else None)
        for form, path in modules.items()
    ]
    assert max(cosine_distance(vectors[0], others) for others in vectors[1:]) < 1e-5
    assert cosine_distance(vectors[0][:-1], vectors[0][1:]) > 1e-3


def test_the_graph_for_training_is_never_used(modules: dict[str, str]) -> None:
    import tensorflow as tf

    scaled = tf.constant((images(5) / 255).astype(np.float32))
    training = tf.saved_model.load(modules["feature_vector/1"], tags=["train"])
    trained = training.signatures["default"](scaled)["default"].numpy()
    assert cosine_distance(embed(modules["feature_vector/1"]), trained) > 1e-3


@pytest.mark.parametrize("form", ["classification/1", "classification/3"])
def test_embedding_and_logits_come_side_by_side(
    modules: dict[str, str], network: TinyNetwork, form: Form
) -> None:
    model = load(modules[form], BOTH)
    assert try_outputs(model, IMAGE_SIZE, IMAGE_SIZE) == (WIDTH, CLASSES)
    both = embed(modules[form], BOTH)
    assert both.shape == (5, WIDTH + CLASSES)
    assert cosine_distance(both[:, :WIDTH], expected(network, "feature_vector")) < 1e-6
    assert cosine_distance(both[:, WIDTH:], expected(network, "logits")) < 1e-6
    turned = ModelRequest(wanted=("logits", "embedding"))
    assert [i.name for i in describe_model(modules[form], turned).outputs] == list(turned.wanted)
    np.testing.assert_array_equal(embed(modules[form], turned)[:, CLASSES:], both[:, :WIDTH])


def test_a_flat_graph_runs_once_for_both_outputs(modules: dict[str, str]) -> None:
    graph = load(modules["classification/3"], BOTH)._embed.graph
    functions = graph.as_graph_def().library.function
    nodes = [*graph.as_graph_def().node, *(node for each in functions for node in each.node_def)]
    assert [node.op for node in nodes].count("Conv2D") == 1


def test_the_fingerprint_covers_what_is_run(modules: dict[str, str]) -> None:
    path = modules["classification/3"]
    requests = (None, LOGITS, BOTH, ModelRequest(wanted=("logits", "embedding")))
    assert len({fingerprint(path, request) for request in requests}) == len(requests)
    named = ModelRequest(output="module/TinyNet/SpatialSqueeze:0")
    # Only an identity lies between the tensor and the result.
    assert fingerprint(path, named) != fingerprint(path)


@pytest.mark.parametrize("form", ["classification/4", "classification/5"])
@pytest.mark.parametrize("name", [FEATURES, f"{FEATURES}:0"])
def test_a_tensor_of_the_graph_can_be_the_embedding(
    modules: dict[str, str], network: TinyNetwork, form: Form, name: str
) -> None:
    request = ModelRequest(output=name, kind="classification")
    assert describe_model(modules[form], request).embedding_width == WIDTH
    assert (
        cosine_distance(embed(modules[form], request), expected(network, "feature_vector")) < 1e-6
    )
    both = ModelRequest(output=name, wanted=("logits", "embedding"))
    vectors = embed(modules[form], both)
    assert cosine_distance(vectors[:, :CLASSES], expected(network, "logits")) < 1e-6
    assert cosine_distance(vectors[:, CLASSES:], expected(network, "feature_vector")) < 1e-6


def test_a_tensor_of_a_flat_graph_can_be_the_embedding(
    modules: dict[str, str], network: TinyNetwork
) -> None:
    request = ModelRequest(output="module/TinyNet/SpatialSqueeze", wanted=("embedding", "logits"))
    vectors = embed(modules["classification/1"], request)
    assert cosine_distance(vectors[:, :WIDTH], expected(network, "feature_vector")) < 1e-6


def test_the_fingerprint_covers_the_named_tensor(
    tmp_path: Path, modules: dict[str, str], network: TinyNetwork
) -> None:
    path = modules["classification/5"]
    named = ModelRequest(output=FEATURES)
    assert fingerprint(path, named) != fingerprint(path, ModelRequest(output="MatMul"))
    assert fingerprint(path, named) != fingerprint(path)
    again = save_hub_module(tmp_path / "again", "classification/5", network)
    assert fingerprint(again, named) == fingerprint(path, named)


def test_a_tensor_that_is_no_vector_is_refused(modules: dict[str, str]) -> None:
    with pytest.raises(UnusableModel, match=r"Conv2D in .* is a 4-D feature map .*behind the pool"):
        describe_model(modules["classification/4"], ModelRequest(output="Conv2D"))


@pytest.mark.parametrize(
    ("form", "name", "told"),
    [
        ("classification/4", "spatialsqueeze", f"did you mean '{FEATURES}'.*result has no name"),
        ("classification/5", "TinyNet/SpatialSqeeze", f"did you mean '{FEATURES}'"),
        ("classification/1", "defalt", "did you mean 'default'.*TinyNet/global_pool, default"),
        ("feature_vector/5", "nothing_like_it", "no tensor 'nothing_like_it'; its results are"),
    ],
)
def test_an_output_that_is_not_there_is_refused_with_the_nearest_names(
    modules: dict[str, str], form: Form, name: str, told: str
) -> None:
    with pytest.raises(UnusableModel, match=told):
        describe_model(modules[form], ModelRequest(output=name))


@pytest.mark.parametrize("form", ["classification/4", "classification/5"])
def test_a_classifier_without_a_vector_is_refused_for_embeddings(
    tmp_path: Path, modules: dict[str, str], form: Form
) -> None:
    for request in (BOTH, ModelRequest(kind="classification")):
        with pytest.raises(UnusableModel, match=LOGITS_ONLY):
            describe_model(modules[form], request)
    shutil.copytree(modules[form], tmp_path / "model")
    (tmp_path / "model" / "model.json").write_text(json.dumps({"kind": "classification"}))
    with pytest.raises(UnusableModel, match=LOGITS_ONLY):
        describe_model(str(tmp_path / "model"))
    assert describe_model(str(tmp_path / "model"), LOGITS).embedding_width == CLASSES


def test_a_result_called_logits_is_no_embedding(tmp_path: Path, network: TinyNetwork) -> None:
    path = save_hub_module(tmp_path / "5", "classification/5", network, output_key="logits")
    signature = ModelRequest(signature="serving_default")
    with pytest.raises(UnusableModel, match=LOGITS_ONLY):
        describe_model(path, signature)
    assert describe_model(path, LOGITS).output_key == "logits"


def test_a_call_whose_meaning_nobody_tells_gives_what_is_asked_for(modules: dict[str, str]) -> None:
    (output,) = describe_model(modules["classification/4"]).outputs
    assert (output.name, output.width) == ("embedding", CLASSES)


@pytest.mark.parametrize("form", ["feature_vector/1", "feature_vector/3"])
def test_a_feature_vector_has_no_logits(modules: dict[str, str], form: Form) -> None:
    for request in (LOGITS, BOTH):
        with pytest.raises(UnusableModel, match=r"gives a feature vector only .*and no logits"):
            describe_model(modules[form], request)
    with pytest.raises(UnusableModel, match="gives a feature vector only"):
        describe_model(
            modules["feature_vector/4"], ModelRequest(wanted=("logits",), kind="feature_vector")
        )


def test_a_fixed_module_refuses_other_sizes_with_both_named(modules: dict[str, str]) -> None:
    with pytest.raises(UnusableModel, match="takes images of 299 x 299 only, not of 331 x 331"):
        load(modules["feature_vector/1"], size=331)


@pytest.mark.parametrize("form", ["feature_vector/3", "feature_vector/4", "feature_vector/5"])
def test_a_module_of_variable_size_takes_other_sizes(modules: dict[str, str], form: Form) -> None:
    assert try_model(load(modules[form], size=75), 75, 75) == WIDTH


@pytest.mark.parametrize("form", ["feature_vector/3", "feature_vector/4"])
def test_a_size_that_is_too_small_is_refused_with_the_smallest(
    modules: dict[str, str], form: Form
) -> None:
    with pytest.raises(UnusableModel, match="the smallest square image it takes is 3 x 3") as told:
        try_model(load(modules[form], size=2), 2, 2)
    assert "\n" not in str(told.value)


def test_a_module_of_variable_size_may_name_no_size(tmp_path: Path, network: TinyNetwork) -> None:
    path = save_tf1_module(
        tmp_path / "module", network, "feature_vector", variable_size=True, attach_size=False
    )
    assert describe_model(path).input_height is None


def test_the_attached_size_may_be_no_square(tmp_path: Path, network: TinyNetwork) -> None:
    path = save_hub_module(tmp_path / "module", "feature_vector/3", network, size=(224, 331))
    description = describe_model(path)
    assert (description.input_height, description.input_width) == (224, 331)


def test_the_signature_with_hyperparameters_gives_the_same_vectors(
    modules: dict[str, str],
) -> None:
    """What it takes beside the images is read in training only."""
    request = ModelRequest(signature="image_feature_vector_with_bn_hparams")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    path = modules["feature_vector/3"]
    plain, named = (
        HubImageModel.load(describe_model(path, each), height=64, width=64).embed(images)
        for each in (ModelRequest(), request)
    )
    np.testing.assert_allclose(plain, named, atol=1e-6)


def test_a_flat_graph_has_a_fingerprint_of_its_weights_and_computation(
    tmp_path: Path, modules: dict[str, str], network: TinyNetwork
) -> None:
    path = modules["feature_vector/1"]
    shutil.copytree(path, tmp_path / "copy")
    again = save_hub_module(tmp_path / "again", "feature_vector/1", network)
    assert fingerprint(str(tmp_path / "copy")) == fingerprint(again) == fingerprint(path)
    assert fingerprint(path, ModelRequest(signature="default")) == fingerprint(path)
    other = save_hub_module(tmp_path / "other", "feature_vector/1", TinyNetwork(seed=1))
    assert fingerprint(other) != fingerprint(path)

    class Louder(TinyNetwork):
        def __call__(self, images: Any, training: bool, batch_norm_momentum: Any) -> dict[str, Any]:
            return super().__call__(images * 2.0, training, batch_norm_momentum)

    louder = save_hub_module(tmp_path / "louder", "feature_vector/1", Louder())
    assert fingerprint(louder) != fingerprint(path)


def save_tf1_model(folder: Path, scale: float = 1.0, swapped: bool = False) -> str:
    """Save a graph with old-style variables, as a `tf.compat.v1` session of a user does."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.float32, [None, 16, 16, 3], "pixels")
        first, second = (
            v1.get_variable(name, initializer=np.float32(values), use_resource=False)
            for name, values in (("first", [1, 2, 3]), ("second", [3, 2, 1]))
        )
        means = tf.reduce_mean(images, [1, 2]) * scale
        left, right = (second, first) if swapped else (first, second)
        vectors = tf.identity(means * left + right, "vectors")
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(
            session, str(folder), {"pixels": images}, {"map": images, "features": vectors}
        )
    return str(folder)


def test_a_saved_model_of_tensorflow_1_is_read(tmp_path: Path) -> None:
    path = save_tf1_model(tmp_path / "model")
    description = describe_model(path)
    assert (description.entry_point, description.input_key) == ("serving_default", "pixels")
    assert (description.output_key, description.embedding_width) == ("features", 3)
    assert (description.input_height, description.fixed_size) == (16, True)
    pixels = images(4, 16, 16)
    expected = (pixels / 255).mean(axis=(1, 2)) * [1, 2, 3] + [3, 2, 1]
    vectors = load(path, size=16).embed(pixels)
    np.testing.assert_allclose(vectors, expected, rtol=1e-5)


def test_the_fingerprint_of_old_variables_tells_them_apart(tmp_path: Path) -> None:
    plain = fingerprint(save_tf1_model(tmp_path / "plain"))
    assert fingerprint(save_tf1_model(tmp_path / "again")) == plain
    assert fingerprint(save_tf1_model(tmp_path / "scaled", scale=2.0)) != plain
    assert fingerprint(save_tf1_model(tmp_path / "swapped", swapped=True)) != plain


def test_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    path = save_tf1_model(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "variables")
    with pytest.raises(UnusableModel, match=r"cannot be loaded: .*variables"):
        load(path, size=16)


def test_a_stated_width_that_the_model_does_not_have_is_refused(modules: dict[str, str]) -> None:
    description = describe_model(modules["classification/3"], BOTH)
    embedding, logits = description.outputs
    wrong = replace(description, outputs=(replace(embedding, width=7), logits))
    model = HubImageModel.load(wrong, height=IMAGE_SIZE, width=IMAGE_SIZE)
    with pytest.raises(UnusableModel, match=r"gives 8 values as its embedding, .* says 7"):
        try_outputs(model, IMAGE_SIZE, IMAGE_SIZE)
