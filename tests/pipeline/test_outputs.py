"""Embeddings, logits and top classes through the command, from classifiers of two forms."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hub_modules import save_hub_module
from hub_networks import CLASSES, TinyNetwork
from sample_images import png_bytes
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from pipeline.encoder import ImageEncoder
from pipeline.output_layout import request_for_handle
from transforms.images.image_codec import decode_image
from transforms.records import ModelRequest, Preprocessing
from transforms.search.read_embeddings import read_embeddings

WIDTH, FEW, SIDE = 8, 6, 32


@pytest.fixture(scope="module")
def network():
    return TinyNetwork(embedding_width=WIDTH)


@pytest.fixture(scope="module")
def tf1_module(tmp_path_factory, network):
    """A TF1 classification module of 1001 classes, which gives both outputs."""
    folder = tmp_path_factory.mktemp("tf1") / "module"
    return save_hub_module(folder, "classification/1", network, size=(SIDE, SIDE))


@pytest.fixture(scope="module")
def few_network():
    return TinyNetwork(seed=3, embedding_width=WIDTH, classes=FEW)


@pytest.fixture(scope="module")
def few_classes(tmp_path_factory, few_network):
    """A TF2 classifier that gives logits only."""
    folder = tmp_path_factory.mktemp("tf2") / "module"
    return save_hub_module(folder, "classification/5", few_network)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(7):
        (folder / f"{number}.png").write_bytes(png_bytes(50, 40, seed=number))
    return folder


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"Klasse №{number}\n" for number in range(FEW)))
    return path


def run(photographs, output, model, outputs, *settings):
    arguments = ["run", "--input", photographs, "--output", output, "--model", model]
    sets = [f"model.outputs={outputs}", f"preprocess.size=[{SIDE}, {SIDE}]", *settings]
    return main([*map(str, arguments), *(part for each in sets for part in ("--set", each))])


def plain_call(network, table, output):
    """What the network itself gives for the images of the table, one image after the other."""
    contract = Preprocessing(height=SIDE, width=SIDE)
    pixels = [decode_image(Path(uri).read_bytes(), contract).pixels for uri in table.uris]
    images = np.stack(pixels).astype(np.float32) / 255
    return network(tf.constant(images), False, 0.99)[output].numpy()


def plain_softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def assert_top_classes(table, logits, count):
    probabilities = plain_softmax(logits)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    assert table.class_indices.tolist() == best.tolist()
    expected = np.take_along_axis(probabilities, best, axis=1)
    np.testing.assert_allclose(table.class_probabilities, expected, atol=1e-5)


def test_a_tf1_classifier_gives_all_three_outputs(photographs, tf1_module, network, tmp_path):
    output = tmp_path / "out"
    assert run(photographs, output, tf1_module, "[top_classes, logits, embedding]") == 0
    table = read_embeddings(output)
    assert len(table) == 7
    logits = plain_call(network, table, "logits")
    np.testing.assert_allclose(
        table.vectors, plain_call(network, table, "feature_vector"), atol=1e-4
    )
    np.testing.assert_allclose(table.logits, logits, atol=1e-3)
    assert_top_classes(table, logits, count=5)
    assert table.class_labels is None
    report = json.loads((output / "run.json").read_text())
    assert report["model"]["embedding_width"] == WIDTH
    assert report["outputs"] == {
        "embedding_width": WIDTH,
        "classes": CLASSES,
        "writes_logits": True,
        "top_classes": 5,
        "labels": None,
    }


def test_top_classes_alone_with_labels(
    photographs, few_classes, few_network, labels, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    settings = ("model.top_classes=3", "model.labels=labels.txt")
    assert run(photographs, output, few_classes, "[top_classes]", *settings) == 0
    table = read_embeddings(output)
    assert table.vectors.shape == (7, 0)
    assert table.logits is None
    assert_top_classes(table, plain_call(few_network, table, "logits"), count=3)
    names = [[f"Klasse №{index}" for index in row] for row in table.class_indices]
    assert table.class_labels.tolist() == names
    report = json.loads((output / "run.json").read_text())
    assert report["model"]["embedding_width"] is None
    assert report["outputs"]["labels"] == str(labels)


def test_a_named_tensor_is_the_embedding_beside_the_logits(
    photographs, few_classes, few_network, tmp_path
):
    output = tmp_path / "out"
    settings = ("model.output=TinyNet/SpatialSqueeze", "model.signature=serving_default")
    assert run(photographs, output, few_classes, "[embedding, logits]", *settings) == 0
    table = read_embeddings(output)
    np.testing.assert_allclose(
        table.vectors, plain_call(few_network, table, "feature_vector"), atol=1e-4
    )
    np.testing.assert_allclose(table.logits, plain_call(few_network, table, "logits"), atol=1e-3)
    assert table.class_indices is None


def test_the_order_of_the_outputs_changes_nothing(photographs, tf1_module, tmp_path):
    tables = []
    for number, outputs in enumerate(("[embedding, logits]", "[logits, embedding]")):
        assert run(photographs, tmp_path / str(number), tf1_module, outputs) == 0
        tables.append(read_embeddings(tmp_path / str(number)))
    assert tables[0].provenance == tables[1].provenance
    rows = [dict(zip(t.uris, map(bytes, t.vectors), strict=True)) for t in tables]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("outputs", "settings", "told"),
    [
        ("[top_classes]", ["model.top_classes=7"], "model.top_classes is 7, .* only 6 classes"),
        ("[embedding, logits]", [], "gives logits only .* name the tensor .* model.output"),
        ("[logits]", ["model.signature=servin_default"], "did you mean 'serving_default'"),
        ("[embedding]", ["model.output=Squeese"], "no output and no tensor 'Squeese'"),
        ("[top_classes]", ["model.labels=gone.txt"], "model.labels: there is no file .*gone.txt"),
        ("[top_classes]", ["model.labels=five.txt"], "model.labels has 5 lines, .* 6 classes"),
        ("[top_classes]", ["model.labels=latin.txt"], "model.labels: .*latin.txt is no UTF-8"),
        ("[top_classes]", ["model.labels=."], "model.labels: .* cannot be read: .*directory"),
        ("[logits]", ["model.labels=five.txt"], "add top_classes to model.outputs"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_job(
    photographs, few_classes, tmp_path, monkeypatch, capsys, outputs, settings, told
):
    monkeypatch.chdir(tmp_path)
    Path("five.txt").write_text("a\nb\nc\nd\ne\n")
    Path("latin.txt").write_bytes(b"Stra\xdfe\n" * FEW)
    output = tmp_path / "out"
    assert run(photographs, output, few_classes, outputs, *settings) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(told, error), error
    assert not output.exists() or not any(output.iterdir())


def test_a_feature_vector_has_no_classes(photographs, network, tmp_path, capsys):
    model = save_hub_module(tmp_path / "model", "feature_vector/1", network, size=(SIDE, SIDE))
    assert run(photographs, tmp_path / "out", model, "[embedding, top_classes]") == 2
    assert "gives a feature vector only" in capsys.readouterr().err


class Softmax(TinyNetwork):
    """A classifier that ends in a softmax, as Keras' own do."""

    def __call__(self, images, training, batch_norm_momentum):
        outputs = super().__call__(images, training, batch_norm_momentum)
        return {**outputs, "logits": tf.nn.softmax(outputs["logits"])}


def test_probabilities_are_not_taken_for_logits(photographs, tmp_path, capsys):
    model = save_hub_module(
        tmp_path / "model", "classification/4", Softmax(embedding_width=WIDTH, classes=FEW)
    )
    assert run(photographs, tmp_path / "out", model, "[top_classes]") == 2
    assert "gives probabilities" in capsys.readouterr().err
    tensor = "model.output=TinyNet/Logits/add"
    assert run(photographs, tmp_path / "named", model, "[top_classes]", tensor) == 0
    assert run(photographs, tmp_path / "plain", model, "[logits]") == 0
    plain, named = (read_embeddings(tmp_path / folder) for folder in ("plain", "named"))
    np.testing.assert_allclose(plain.logits.sum(axis=1), 1, atol=1e-5)
    # Each run writes its rows in an order of its own.
    highest = dict(zip(plain.uris, plain.logits.max(axis=1), strict=True))
    for uri, probabilities in zip(named.uris, named.class_probabilities, strict=True):
        np.testing.assert_allclose(probabilities[0], highest[uri], atol=1e-5)


def test_the_encoder_gives_the_same_vectors(photographs, tf1_module, tmp_path):
    assert run(photographs, tmp_path / "out", tf1_module, "[embedding, logits]") == 0
    table = read_embeddings(tmp_path / "out")
    encoder = ImageEncoder(tf1_module, request=ModelRequest(wanted=("embedding", "logits")))
    vectors = np.stack(encoder.bulk_encode(table.uris))
    np.testing.assert_allclose(vectors[:, :WIDTH], table.vectors, atol=1e-5)
    np.testing.assert_allclose(vectors[:, WIDTH:], table.logits, atol=1e-4)


def test_the_handle_tells_the_kind_where_the_request_does_not():
    handle = "https://tfhub.dev/google/imagenet/inception_resnet_v2/classification/5"
    assert request_for_handle(ModelRequest(), handle).kind == "classification"
    told = ModelRequest(kind="feature_vector")
    assert request_for_handle(told, handle) == told
    assert request_for_handle(ModelRequest(), "models/mine") == ModelRequest()


def test_vectors_that_look_like_class_scores_are_warned_of(photographs, tmp_path, capsys):
    model = save_tiny_model(tmp_path / "model", embedding_width=1001)
    assert run(photographs, tmp_path / "out", model, "[embedding]") == 0
    assert "warning: the vectors" in capsys.readouterr().err
    model = save_tiny_model(tmp_path / "other", embedding_width=1002)
    assert run(photographs, tmp_path / "out2", model, "[embedding]") == 0
    assert "warning" not in capsys.readouterr().err
