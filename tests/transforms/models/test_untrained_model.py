"""The untrained Inception-ResNet-v2: its interface, its vectors, and its one build in a cache."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from transforms.errors import UnusableModel
from transforms.models.untrained_model import (
    UNTRAINED_HANDLE,
    seeded_network,
    untrained_model_folder,
)

#: SHA-256 over the bytes of all variables, one after the other. It is the same on every
#: machine; whoever changes it on purpose raises RECIPE_VERSION.
WEIGHTS_SHA256 = "9253a6814813b8eb52b757d496e68189d4c7060c8cabfc7b41f3f925ce9667be"

BUILD = (
    "from transforms.models.untrained_model import untrained_model_folder as build; print(build())"
)

#: Leaves its mark on every counter from which Keras makes up names.
BUILD_AFTER_ANOTHER_MODEL = f"""
import logging, keras
logging.basicConfig(level="INFO")
keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3),
                  keras.layers.BatchNormalization(), keras.layers.Activation("relu")])
{BUILD}
"""


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass(frozen=True)
class SecondBuild:
    """What two processes did that were sent, at once, to a cache where a build was killed."""

    cache: Path
    folders: list[str]
    builds: int


@pytest.fixture(scope="session")
def second_build(tmp_path_factory: pytest.TempPathFactory) -> SecondBuild:
    """Build the model in a cache of its own, on one thread, after another Keras model."""
    home = tmp_path_factory.mktemp("second")
    cache = home / "embed-images"
    # XDG_CACHE_HOME counts where EMBED_IMAGES_CACHE is not set.
    where = {"EMBED_IMAGES_CACHE": "", "XDG_CACHE_HOME": str(home)}

    killed = start(BUILD, **where)
    deadline = time.monotonic() + 60
    while not (unfinished := list(cache.glob("*.unfinished-*"))):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert unfinished[0].is_dir()

    # Half a model, as one that clears a cache by age leaves it.
    half = cache / unfinished[0].name.partition(".unfinished-")[0]
    half.mkdir()
    (half / "saved_model.pb").write_bytes(b"")

    threads = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
    racers = [start(BUILD_AFTER_ANOTHER_MODEL, **where, **threads) for _ in range(2)]
    untrained_model_folder()  # The first build, meanwhile, on the other core.
    answers = [racer.communicate() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], answers
    return SecondBuild(
        cache=cache,
        folders=[out.strip() for out, _ in answers],
        builds=sum(log.count("model-build-started") for _, log in answers),
    )


@pytest.fixture(scope="session")
def folder() -> str:
    """The model in the cache that the whole test session shares."""
    return untrained_model_folder()


@pytest.fixture(scope="session")
def model(folder: str) -> Any:
    import tensorflow_hub

    return tensorflow_hub.load(folder)


@pytest.fixture(scope="session")
def photographs() -> npt.NDArray[np.float32]:
    """Central parts of photographs, which the calibration has not seen as such."""
    names = {
        "skimage.data": ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "coins.png"),
        "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
    }
    views = []
    for package, files in names.items():
        for file in files:
            with resources.files(package).joinpath(file).open("rb") as stream:
                image = Image.open(stream).convert("RGB")
            width, height = image.size
            box = (width // 5, height // 5, width - width // 5, height - height // 5)
            views.append(np.asarray(image.resize((299, 299), box=box), np.float32) / 255)
    return np.stack(views)


def checkpoint_of(folder: str) -> Iterator[tuple[str, str, npt.NDArray[Any]]]:
    """Yield key, dtype and value of every variable on disk, by position."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(f"{folder}/variables/variables")
    dtypes = reader.get_variable_to_dtype_map()
    keys = [key for key in dtypes if dtypes[key] != tf.string]
    for key in sorted(keys, key=lambda key: [int(n) for n in re.findall(r"\d+", key)]):
        yield key, dtypes[key].name, reader.get_tensor(key)


def digests(folder: str) -> dict[tuple[str, str, tuple[int, ...]], str]:
    return {
        (key, dtype, value.shape): hashlib.sha256(value.tobytes()).hexdigest()
        for key, dtype, value in checkpoint_of(folder)
    }


def graph_of(folder: str) -> list[str]:
    """Every node of every traced function, without the numbers that TensorFlow gives functions."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString(Path(folder, "saved_model.pb").read_bytes())
    (meta_graph,) = saved.meta_graphs
    nodes = [*meta_graph.graph_def.node]
    for function in meta_graph.graph_def.library.function:
        nodes += function.node_def
    numbered = re.compile(r"(__\w+?)_\d+\b")
    return sorted(numbered.sub(r"\1", str(node)) for node in nodes)


def cosines(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


@pytest.mark.slow
def test_every_process_builds_the_same_model(second_build: SecondBuild, folder: str) -> None:
    other = second_build.folders[0]
    assert other != folder
    assert digests(other) == digests(folder)
    assert graph_of(other) == graph_of(folder)


@pytest.mark.slow
def test_every_machine_builds_the_same_weights(folder: str) -> None:
    digest = hashlib.sha256()
    for _, _, value in checkpoint_of(folder):
        digest.update(value.tobytes())
    assert digest.hexdigest() == WEIGHTS_SHA256


@pytest.mark.slow
def test_one_of_two_processes_builds_and_the_other_waits(second_build: SecondBuild) -> None:
    assert second_build.builds == 1
    assert second_build.folders[0] == second_build.folders[1]


@pytest.mark.slow
def test_a_killed_build_and_half_a_model_leave_nothing_behind(second_build: SecondBuild) -> None:
    model = Path(second_build.folders[0])
    assert sorted(path.name for path in second_build.cache.iterdir()) == [
        model.name,
        f"{model.name}.lock",
    ]
    assert (model / "saved_model.pb").stat().st_size > 0


@pytest.mark.slow
def test_a_built_model_is_found_in_every_way_to_name_the_cache(
    second_build: SecondBuild, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = second_build.folders[0]
    assert untrained_model_folder(cache=str(second_build.cache)) == built

    monkeypatch.setenv("EMBED_IMAGES_CACHE", str(second_build.cache))
    assert untrained_model_folder() == built

    monkeypatch.delenv("EMBED_IMAGES_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(second_build.cache.parent))
    assert untrained_model_folder() == built

    (tmp_path / ".cache").symlink_to(second_build.cache.parent)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Path(untrained_model_folder()).resolve() == Path(built)


@pytest.mark.slow
def test_the_description_says_untrained(folder: str) -> None:
    description = json.loads(Path(folder, "model.json").read_text())
    assert "Untrained" in description.pop("note")
    assert description == {
        "handle": UNTRAINED_HANDLE,
        "untrained": True,
        "input_height": 299,
        "input_width": 299,
        "embedding_width": 1536,
        "seed": 0,
    }


@pytest.mark.slow
def test_the_model_has_the_interface_of_feature_vector_4(model: Any) -> None:
    assert dict(model.signatures) == {}
    assert list(model.regularization_losses) == []
    assert len(model.variables) == 896
    assert len(model.trainable_variables) == 488
    assert sum(int(np.prod(variable.shape)) for variable in model.variables) == 54_336_736
    images = np.zeros((2, 75, 90, 3), np.float32)
    default = model(images)
    assert default.dtype.name == "float32"
    assert default.shape == (2, 1536)
    for momentum in (0.99, np.float32(0.5)):
        again = model(images, training=False, batch_norm_momentum=momentum)
        np.testing.assert_array_equal(again, default)


@pytest.mark.slow
def test_the_momentum_decides_what_training_keeps_of_the_statistics(folder: str) -> None:
    import tensorflow as tf

    # A model of its own, because training changes it.
    trained = tf.saved_model.load(folder)
    images = np.random.RandomState(0).random_sample((2, 75, 75, 3)).astype(np.float32)
    trainable = {id(variable) for variable in trained.trainable_variables}
    statistics = [v for v in trained.variables if id(v) not in trainable]

    def change(**arguments: Any) -> float:
        before = [variable.numpy() for variable in statistics]
        assert trained(images, training=True, **arguments).shape == (2, 1536)
        after = [variable.numpy() for variable in statistics]
        return float(sum(np.abs(b - a).sum() for a, b in zip(after, before, strict=True)))

    assert change(batch_norm_momentum=np.float32(1.0)) == 0.0
    small = change()
    large = change(batch_norm_momentum=np.float32(0.5))
    assert 0.0 < small < large
    # Momentum 0 keeps nothing: the second time finds what the first has left.
    change(batch_norm_momentum=np.float32(0.0))
    assert change(batch_norm_momentum=np.float32(0.0)) < 1e-3 * large


@pytest.mark.slow
def test_different_photographs_get_different_vectors(
    model: Any, photographs: npt.NDArray[np.float32]
) -> None:
    vectors = model(photographs).numpy()
    assert np.isfinite(vectors).all()
    similar = cosines(vectors)
    # 0.99 without the calibrated statistics.
    assert 0.5 < similar.mean() < 0.85
    assert similar.max() < 0.97
    # Means of rectified values of about unit variance.
    assert 0.1 < vectors.mean() < 2.0
    assert (np.ptp(vectors, axis=0) > 0).mean() > 0.99


def test_the_module_imports_neither_tensorflow_nor_keras() -> None:
    code = "import transforms.models.untrained_model, sys"
    code += "; print({'tensorflow', 'keras'} & {*sys.modules})"
    out, _ = start(code).communicate()
    assert out.strip() == "set()"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnusableModel, match=r"kept in \S+/file/models: .*EMBED_IMAGES_CACHE"):
        untrained_model_folder(cache=str(tmp_path / "file" / "models"))


def test_keras_with_another_layout_is_refused() -> None:
    import keras

    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(UnusableModel, match="image_data_format 'channels_first'"):
            seeded_network()
    finally:
        keras.config.set_image_data_format("channels_last")
