"""The vectors of the command against a reference that shares no code with it.

The reference decodes with Pillow, resizes in float with `tf.image.resize`, and calls the model.
"""

from pathlib import Path

import numpy as np
import pytest
from components import require
from PIL import Image

from pipeline.__main__ import main
from transforms.model_handler import HubImageModelHandler, ModelSettings
from transforms.models.model_description import describe_model
from transforms.models.untrained_model import UNTRAINED_HANDLE, untrained_model_folder
from transforms.search.read_embeddings import read_embeddings

MOBILENET = Path(__file__).parents[3] / "shared/data/models/mobilenet_v1_feature_vector"

#: Cosine distance. On an image with large smooth parts, such as a sky at dusk, the rounding of
#: the resized image to uint8 alone can cost more than this; there it is the measure, and Pillow,
#: which rounds between its two passes as well, may cost twice that.
LARGEST_DISTANCE = 5e-4
ROUNDINGS = 2.5

PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "retina.jpg")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs of the scikit-image wheel: from 451 x 300 to 1411 x 1411 pixels."""
    package = require("skimage", "pip install 'embed-images[demo]'")
    folder = tmp_path_factory.mktemp("photographs")
    for name in PHOTOGRAPHS:
        source = Path(package.submodule_search_locations[0]) / "data" / name
        (folder / name).write_bytes(source.read_bytes())
    return folder


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("untrained", marks=pytest.mark.slow),
        "mobilenet",
    ],
)
def model(request):
    """(handle, folder, input size, width)"""
    if request.param == "untrained":
        return UNTRAINED_HANDLE, untrained_model_folder(), 299, 1536
    if not MOBILENET.is_dir():
        pytest.skip(f"the trained MobileNet is not at {MOBILENET}")
    return str(MOBILENET), str(MOBILENET), 224, 1024


def network(folder):
    import tensorflow_hub

    loaded = tensorflow_hub.load(folder)
    if "serving_default" in loaded.signatures:
        return lambda images: loaded.signatures["serving_default"](inputs=images)["default"].numpy()
    return lambda images: loaded(images).numpy()


def reference_pixels(path, size, antialias):
    import tensorflow as tf

    pixels = np.asarray(Image.open(path).convert("RGB"), np.float32)
    return tf.image.resize(pixels[None], (size, size), antialias=antialias).numpy()


def cosine_distance(first, second):
    first, second = first.astype(np.float64), second.astype(np.float64)
    return 1 - first @ second / (np.linalg.norm(first) * np.linalg.norm(second))


def test_the_command_agrees_with_the_reference_and_a_resize_without_antialias_would_not(
    model, photographs, tmp_path, capsys
):
    handle, folder, size, width = model
    output = tmp_path / "out"
    arguments = ["run", "--input", str(photographs), "--output", str(output), "--model", handle]
    assert main(arguments) == 0
    assert ("untrained" in capsys.readouterr().out) == (handle == UNTRAINED_HANDLE)

    table = read_embeddings(str(output))
    assert table.vectors.shape == (len(PHOTOGRAPHS), width)
    vectors = dict(zip(table.uris, table.vectors, strict=True))
    call = network(folder)
    excesses, excesses_without_antialias = [], []
    for uri, vector in vectors.items():
        pixels = reference_pixels(uri, size, antialias=True)
        expected = call(pixels / 255)[0]
        rounded = call(np.rint(pixels) / 255)[0]
        plain = call(np.rint(reference_pixels(uri, size, antialias=False)) / 255)[0]
        allowed = max(LARGEST_DISTANCE, ROUNDINGS * cosine_distance(rounded, expected))
        excesses.append(cosine_distance(vector, expected) / allowed)
        excesses_without_antialias.append(cosine_distance(plain, expected) / allowed)
    assert max(excesses) < 1
    assert min(excesses_without_antialias) > 1


@pytest.mark.parametrize("count", [1, 7, 32])
def test_from_the_same_pixels_come_the_vectors_of_a_plain_model_call(model, count):
    handle, folder, size, _ = model
    random = np.random.default_rng(count)
    images = list(random.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    fingerprint = describe_model(folder).fingerprint
    handler = HubImageModelHandler(
        ModelSettings(handle, fingerprint, size, size, (0.0, 1.0), batch_size=32)
    )
    answers = handler.run_inference(images, handler.load_model())
    expected = network(folder)(np.stack(images).astype(np.float32) / 255)
    for answer, vector in zip(answers, expected, strict=True):
        assert cosine_distance(answer.vector, vector) < 1e-6
