"""Keras files as models: converted once, with their top or without, or refused."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from keras_files import (
    CLASSES,
    WIDTH,
    save,
    save_older_weights,
    seeded,
    small_network,
    with_top,
)

from transforms.errors import UnusableModel
from transforms.models.keras_model import KERAS_RECIPES, KerasRecipe
from transforms.models.model_description import describe_model
from transforms.models.model_resolution import resolve_model
from transforms.networks.hub_model import HubImageModel, try_outputs
from transforms.records import ModelRequest

SIZE = 20
BOTH = ModelRequest(wanted=("embedding", "logits"))
FILES = ("model.h5", "model.weights.h5", "model.keras", "older.h5")

#: Nothing listens there.
NOWHERE = "http://127.0.0.1:9/small_weights.h5"


@pytest.fixture(autouse=True)
def _small_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = KerasRecipe(small_network, (SIZE, SIZE), NOWHERE, "0" * 32)
    monkeypatch.setitem(KERAS_RECIPES, "small", recipe)
    monkeypatch.setenv("EMBED_IMAGES_CACHE", str(tmp_path / "cache"))


def saved(model: Any, folder: Path, name: str) -> str:
    if name == "older.h5":
        return save_older_weights(model, folder / name)
    return save(model, folder, name)


def resolve(path: str) -> str:
    return resolve_model(f"keras:small?weights={path}")


def pixels() -> npt.NDArray[np.uint8]:
    return np.random.RandomState(0).randint(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)


def embed(folder: str, request: ModelRequest | None = None) -> npt.NDArray[np.float32]:
    model = HubImageModel.load(describe_model(folder, request), height=SIZE, width=SIZE)
    try_outputs(model, SIZE, SIZE)
    return model.embed(pixels())


def expected(model: Any) -> npt.NDArray[np.float32]:
    """Return what Keras itself gives for pixels in [-1, 1]."""
    values: npt.NDArray[np.float32] = model(pixels() / np.float32(127.5) - 1, training=False)
    return np.asarray(values)


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_vectors_of_its_network(tmp_path: Path, name: str) -> None:
    network = seeded(small_network())
    folder = resolve(saved(network, tmp_path, name))
    np.testing.assert_allclose(embed(folder), expected(network), rtol=1e-5)
    with pytest.raises(UnusableModel, match="and no logits"):
        describe_model(folder, BOTH)


@pytest.mark.parametrize("name", FILES)
def test_the_top_gives_logits_before_softmax_beside_the_vectors(tmp_path: Path, name: str) -> None:
    network = seeded(small_network())
    top = with_top(network)
    folder = resolve(saved(top, tmp_path, name))
    both = embed(folder, BOTH)
    assert both.shape == (3, WIDTH + CLASSES)
    np.testing.assert_allclose(both[:, :WIDTH], expected(network), rtol=1e-5)
    exponents = np.exp(both[:, WIDTH:])
    softmax = exponents / exponents.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax, expected(top), rtol=1e-4)
    np.testing.assert_array_equal(embed(folder), both[:, :WIDTH])
    logits = ModelRequest(wanted=("logits",))
    np.testing.assert_array_equal(embed(folder, logits), both[:, WIDTH:])


def test_embedding_and_logits_come_from_one_run(tmp_path: Path) -> None:
    folder = resolve(save(with_top(seeded(small_network())), tmp_path, "top.keras"))
    entries = {output.entry_point.name for output in describe_model(folder, BOTH).outputs}
    assert entries == {"serving_default"}


def test_the_description_names_sizes_classes_and_the_weights(tmp_path: Path) -> None:
    folder = resolve(save(with_top(seeded(small_network())), tmp_path, "top.h5"))
    facts = json.loads(Path(folder, "model.json").read_text())
    assert len(facts.pop("weights_sha256")) == 64
    assert facts == {
        "handle": "keras:small",
        "kind": "feature_vector",
        "input_height": SIZE,
        "input_width": SIZE,
        "embedding_width": WIDTH,
        "classes": CLASSES,
    }
    description = describe_model(folder)
    assert (description.input_height, description.embedding_width) == (SIZE, WIDTH)
    assert not description.fixed_size
    assert not description.untrained


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_the_size_of_a_saved_model_is_its_input_size(tmp_path: Path, name: str) -> None:
    import keras

    network = seeded(small_network())
    images = keras.Input((32, 24, 3))
    sized = keras.models.clone_model(network, input_tensors=images)
    description = describe_model(resolve(save(sized, tmp_path, name)))
    assert (description.input_height, description.input_width) == (32, 24)


def test_a_file_is_converted_once_and_found_by_its_content(tmp_path: Path) -> None:
    path = save(seeded(small_network()), tmp_path, "model.h5")
    folder = resolve(path)
    before = Path(folder, "saved_model.pb").stat().st_mtime_ns
    copy = tmp_path / "name of its own?.h5"
    copy.write_bytes(Path(path).read_bytes())
    assert resolve(str(copy)) == folder
    assert Path(folder, "saved_model.pb").stat().st_mtime_ns == before
    save(seeded(small_network(), seed=2), tmp_path, "model.h5")
    assert resolve(path) != folder
    Path(folder, "variables", "variables.index").unlink()
    assert resolve(str(copy)) == folder
    assert embed(folder).shape == (3, WIDTH)


def test_layers_without_effect_outside_of_training_may_be_in_a_file(tmp_path: Path) -> None:
    import keras

    network = seeded(small_network())
    dropped = keras.layers.Dropout(0.5)(network.output)
    model = keras.Model(network.input, keras.layers.Dense(CLASSES)(dropped))
    model.compile("adam", "mse")
    model.train_on_batch(np.zeros((1, SIZE, SIZE, 3)), np.zeros((1, CLASSES)))
    for name in FILES[:3]:
        folder = resolve(save(model, tmp_path, name))
        np.testing.assert_allclose(embed(folder), expected(network), rtol=1e-5)


def test_a_network_saved_without_pooling_is_pooled(tmp_path: Path) -> None:
    import keras

    network = seeded(small_network())
    maps = keras.Model(network.input, network.layers[-2].output)
    folder = resolve(save(maps, tmp_path, "maps.keras"))
    np.testing.assert_allclose(embed(folder), expected(network), rtol=1e-5)


def changed(kind: str) -> Any:
    import keras

    network = seeded(small_network())
    if kind == "top without biases":
        return keras.Model(
            network.input, keras.layers.Dense(CLASSES, use_bias=False)(network.output)
        )
    if kind == "rescaled":
        images = keras.Input((SIZE, SIZE, 3))
        maps = keras.layers.Rescaling(2.0, -1.0)(images)
        for layer in network.layers[1:]:
            maps = layer(maps)
        return keras.Model(images, maps)
    if kind == "max pooled":
        pooled = keras.layers.GlobalMaxPooling2D()(network.layers[-2].output)
        return keras.Model(network.input, pooled)
    if kind == "wrapped":
        return keras.Sequential([keras.Input((SIZE, SIZE, 3)), network])
    kernel = 5 if kind == "larger kernel" else 3
    other = keras.layers.Conv2D(WIDTH, kernel)(keras.Input((SIZE, SIZE, 3)))
    return keras.Model(other._keras_history.operation.input, other)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("top without biases", r"holds 1 \(such as \[6, 4\]\) besides; save that network alone"),
        ("rescaled", r"other layers than small: 1 Rescaling \(not 0\)"),
        ("max pooled", r"other layers than small: 1 GlobalMaxPooling2D \(not 0\)"),
        ("wrapped", r"other layers than small: .*1 Functional \(not 0\)"),
        ("larger kernel", r"of the 4 arrays of its weights the file lacks .*\[3, 3, 3, 6\]"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path: Path, kind: str, told: str) -> None:
    with pytest.raises(UnusableModel, match=told):
        resolve(save(changed(kind), tmp_path, "model.keras"))


def test_weights_at_other_places_of_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match="cannot be read: ValueError"):
        resolve(save(changed("wrapped"), tmp_path, "model.weights.h5"))


def test_nothing_of_a_keras_file_is_run(tmp_path: Path) -> None:
    path = Path(save(seeded(small_network()), tmp_path, "model.keras"))
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        weights = archive.read("model.weights.h5")
    mark = tmp_path / "it was run"
    evil = {"module": "os", "class_name": "system", "config": {"command": f"touch '{mark}'"}}
    config["config"]["layers"].append(
        {"module": "os", "registered_name": "system", **evil, "inbound_nodes": []}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)
    with pytest.raises(UnusableModel, match=r"other layers than small: 1 system \(not 0\)"):
        resolve(str(path))
    assert not mark.exists()


@pytest.mark.parametrize("name", FILES[:3])
def test_a_cut_file_is_refused(tmp_path: Path, name: str) -> None:
    path = Path(save(seeded(small_network()), tmp_path, name))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(
        UnusableModel, match=r"cannot be read: OSError: .*truncated|the file is cut"
    ):
        resolve(str(path))


def test_a_corrupt_archive_is_refused(tmp_path: Path) -> None:
    path = Path(save(seeded(small_network()), tmp_path, "model.keras"))
    content = bytearray(path.read_bytes())
    start = content.index(b"\x89HDF") + 100
    content[start : start + 50] = b"\xff" * 50
    path.write_bytes(content)
    with pytest.raises(UnusableModel, match=r"cut or corrupt: Bad CRC-32"):
        resolve(str(path))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", r"neither an HDF5 file nor a Keras archive.*begins with b''"),
        (b"<html><body>404</body></html>", "begins with b'<html><b'"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "model.h5").write_bytes(content)
    with pytest.raises(UnusableModel, match=told):
        resolve(str(tmp_path / "model.h5"))


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(UnusableModel, match=r"without config\.json and model\.weights\.h5"):
        resolve(str(tmp_path / "model.keras"))


@pytest.mark.parametrize(
    ("handle", "told"),
    [
        ("keras:small?weights=/no/such.h5", r"/no/such\.h5: there is no such file"),
        ("keras:small?weights=/", "cannot be read: Is a directory"),
        ("keras:small?weights=gs://bucket/a.h5", "not on this machine; copy them to a local file"),
        ("keras:small", "has no weights; name a .h5, .weights.h5 or .keras file"),
        ("keras:smal?weights=a.h5", "no network 'smal' .*use inception_resnet_v2 or small"),
        ("keras:small?wieghts=a.h5", r"write keras:NETWORK\?weights=FILE"),
        ("keras:small?weights=", r"write keras:NETWORK\?weights=FILE"),
    ],
)
def test_a_handle_that_leads_nowhere_is_refused(handle: str, told: str) -> None:
    with pytest.raises(UnusableModel, match=told):
        resolve_model(handle)


def test_without_a_network_the_weights_of_imagenet_are_refused_with_what_to_do() -> None:
    with pytest.raises(
        UnusableModel, match=r"cannot be fetched from .*name it with model\.weights"
    ):
        resolve_model("keras:small?weights=imagenet")


def test_the_weights_of_imagenet_are_downloaded_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = seeded(small_network())
    path = Path(save_older_weights(with_top(network), tmp_path / "published.h5"))
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    recipe = KerasRecipe(small_network, (SIZE, SIZE), path.as_uri(), md5)
    monkeypatch.setitem(KERAS_RECIPES, "small", recipe)
    folder = resolve_model("keras:small?weights=imagenet")
    out, err = capsys.readouterr()
    assert not out, "standard output is for results"
    assert "Downloading data from" in err
    assert embed(folder, BOTH).shape == (3, WIDTH + CLASSES)
    wrong = KerasRecipe(small_network, (SIZE, SIZE), path.as_uri(), "0" * 32)
    monkeypatch.setitem(KERAS_RECIPES, "small", wrong)
    with pytest.raises(UnusableModel, match=r"cannot be fetched .*corrupted"):
        resolve_model("keras:small?weights=imagenet")
