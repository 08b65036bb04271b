"""`ImageEncoder` with a tiny model: the pipeline's vectors, without the pipeline."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from http_server import running_server
from PIL import Image, ImageSequence
from sample_images import corrupt_images, encode, jpeg_bytes, natural_image, png_bytes
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from pipeline.config import PreprocessConfig
from pipeline.encoder import ImageEncoder
from transforms.errors import (
    BrokenModel,
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
    InvalidEmbedding,
    InvalidUri,
    RejectedImage,
    RequestError,
    UndecodableImage,
    UnusableModel,
)
from transforms.records import ModelRequest
from transforms.search.read_embeddings import read_embeddings
from transforms.storage.file_listing import list_files
from transforms.storage.http_source import HttpSettings

ROOT = Path(__file__).parents[2]
WIDTH = 8
RED = np.full((32, 32, 3), (255, 0, 0), np.uint8)
BLUE = np.full((32, 32, 3), (0, 0, 255), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), embedding_width=WIDTH)


@pytest.fixture(scope="module")
def encoder(model):
    return ImageEncoder(model, batch_size=4)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Eleven good files and two corrupt ones."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(11):
        content = jpeg_bytes(80 + number, 60, seed=number)
        (folder / f"{number:02d}.jpg").write_bytes(content)
    for name, content in list(corrupt_images().items())[:2]:
        (folder / f"{name}.jpg").write_bytes(content)
    return folder


def test_a_folder_gives_what_the_command_writes(encoder, model, photographs, tmp_path):
    output = tmp_path / "out"
    arguments = ["--input", photographs, "--output", output, "--model", model]
    assert main(["run", *map(str, arguments), "--max-failure-ratio=1"]) == 0
    table = read_embeddings(str(output))
    written = dict(zip(table.uris, table.vectors, strict=True))

    uris = [file.ref.uri for file in list_files(str(photographs)) if file.is_image]
    vectors = encoder.bulk_encode(uris, on_error="none")
    made = {uri: vector for uri, vector in zip(uris, vectors, strict=True) if vector is not None}
    assert len(uris) == 13
    assert made.keys() == written.keys()
    assert len(made) == 11
    for uri, vector in made.items():
        np.testing.assert_allclose(vector, written[uri], atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 11])
def test_many_images_give_what_one_at_a_time_gives_in_their_order(encoder, photographs, count):
    paths = sorted(photographs.glob("[01]*.jpg"))[:count]
    vectors = encoder.bulk_encode(path for path in paths)
    assert len(vectors) == count
    for path, vector in zip(paths, vectors, strict=True):
        assert vector.dtype == np.float32
        assert vector.shape == (WIDTH,)
        np.testing.assert_allclose(vector, encoder.encode(path), atol=1e-5)


def test_every_kind_of_source_gives_the_same_pixels(encoder, tmp_path):
    image = natural_image(50, 40)
    path = tmp_path / "a photo.png"
    path.write_bytes(encode(image, "PNG"))
    expected = encoder.read(path)
    assert expected.shape == (32, 32, 3)
    assert expected.dtype == np.uint8
    with running_server() as server, path.open("rb") as file:
        web = ImageEncoder(
            encoder.description.path, http=HttpSettings(allow_private_addresses=True)
        )
        url = server.serve("/a.png", path.read_bytes())
        np.testing.assert_array_equal(web.read(url), expected)
        for source in (
            *(str(path), path.as_uri(), path.read_bytes(), bytearray(path.read_bytes())),
            *(memoryview(path.read_bytes()), io.BytesIO(path.read_bytes()), file),
            *(image, np.asarray(image), np.asarray(image)[:, ::-1][:, ::-1]),
            np.dstack([np.asarray(image), np.full((40, 50), 255, np.uint8)]),
        ):
            np.testing.assert_array_equal(encoder.read(source), expected)


def test_a_grey_array_is_a_grey_picture_and_transparency_shows_the_background(encoder):
    grey = np.full((9, 9), 100, np.uint8)
    np.testing.assert_array_equal(encoder.read(grey), np.full((32, 32, 3), 100))
    clear = np.zeros((9, 9, 4), np.uint8)
    np.testing.assert_array_equal(encoder.read(clear), np.full((32, 32, 3), 255))


@pytest.mark.parametrize(
    "preprocess",
    [
        PreprocessConfig(),
        PreprocessConfig(fit="center_crop", kernel="bicubic"),
        PreprocessConfig(fit="pad", kernel="lanczos3", background=(1, 2, 3)),
        PreprocessConfig(antialias=False),
    ],
    ids=["squash", "center_crop", "pad", "plain"],
)
def test_reading_again_what_was_read_changes_nothing(model, preprocess):
    encoder = ImageEncoder(model, preprocess=preprocess)
    pixels = encoder.read(jpeg_bytes(70, 50))
    np.testing.assert_array_equal(encoder.read(pixels), pixels)


def test_the_settings_of_the_preprocessing_reach_the_pixels(model):
    padded = ImageEncoder(model, preprocess=PreprocessConfig(fit="pad", background=(9, 8, 7)))
    assert padded.preprocessing.fit == "pad"
    assert padded.read(jpeg_bytes(64, 16))[0, 0].tolist() == [9, 8, 7]


def test_the_encoder_says_what_it_is(encoder, model):
    assert encoder.width == WIDTH
    assert encoder.description.path == model
    assert (encoder.preprocessing.height, encoder.preprocessing.width) == (32, 32)
    assert not encoder.untrained


@pytest.mark.parametrize(
    ("source", "error", "told"),
    [
        ("/no/such/file.jpg", ImageNotFound, "there is no file"),
        (b"no image", UndecodableImage, "no decoder"),
        (b"", UndecodableImage, "empty"),
        ("", InvalidUri, "the source is empty"),
        ("http://127.0.0.1:9/a.jpg?key=secret", ImageForbidden, "loopback"),
        ("http://127.0.0.1:9/a.jpg", ImageForbidden, r"HttpSettings\(allow_private_addresses=True"),
        (np.zeros((0, 5, 3), np.uint8), UndecodableImage, "no pixels"),
        (Image.new("RGB", (0, 5)), UndecodableImage, "0 x 5, so it has no pixels"),
        (Image.new("L", (5, 0)), UndecodableImage, "5 x 0, so it has no pixels"),
    ],
)
def test_a_bad_image_raises_or_is_none_and_is_never_a_vector(encoder, source, error, told):
    good = jpeg_bytes()
    with pytest.raises(error, match=told):
        encoder.encode(source)
    with pytest.raises(error, match=rf"^images\[5\] \(.*{told}") as caught:
        encoder.bulk_encode([good] * 5 + [source, good])
    assert "secret" not in str(caught.value)
    vectors = encoder.bulk_encode([good, source, good], on_error="none")
    assert [vector is None for vector in vectors] == [False, True, False]
    np.testing.assert_allclose(vectors[2], encoder.encode(good), atol=1e-5)


@pytest.mark.parametrize(
    ("fault", "bad", "error"),
    [("reject_red", RED, RejectedImage), ("nan_on_blue", BLUE, InvalidEmbedding)],
)
def test_an_image_that_the_model_cannot_take_costs_itself_only(tmp_path, fault, bad, error):
    encoder = ImageEncoder(save_tiny_model(tmp_path, fault=fault), batch_size=4)
    good = np.asarray(natural_image(32, 32))
    vectors = encoder.bulk_encode([good, good, bad, good, bad, good], on_error="none")
    assert [vector is None for vector in vectors] == [False, False, True, False, True, False]
    with pytest.raises(error, match=r"^images\[2\] \(ndarray\): "):
        encoder.bulk_encode([good, good, bad, good])
    with pytest.raises(error):
        encoder.encode(bad)


def test_a_batch_of_nothing_but_failures_is_the_models_fault(tmp_path):
    encoder = ImageEncoder(save_tiny_model(tmp_path, fault="reject_red"))
    with pytest.raises(BrokenModel, match="every image of a batch of 3 failed"):
        encoder.bulk_encode([RED, RED, RED], on_error="none")


@pytest.mark.parametrize(
    ("source", "error", "told"),
    [
        (np.zeros((9, 9, 3), np.float32), TypeError, r"float32; give uint8 .* \(array \* 255\)"),
        (np.zeros((9, 9, 3), np.int64), TypeError, "int64; give uint8"),
        (np.zeros((2, 9, 9, 3), np.uint8), ValueError, r"shape \[2, 9, 9, 3\]; give one image"),
        (np.zeros((9, 9, 2), np.uint8), ValueError, r"shape \[9, 9, 2\]"),
        (None, TypeError, "cannot be a NoneType"),
        (io.StringIO("text"), TypeError, "cannot be a StringIO"),
    ],
)
def test_what_is_no_image_is_a_mistake_of_the_caller(encoder, source, error, told):
    with pytest.raises(error, match=told):
        encoder.read(source)
    with pytest.raises(error) as caught:
        encoder.bulk_encode([jpeg_bytes(), source], on_error="none")
    assert "images[1]" in caught.value.__notes__[0]


def test_the_limits_hold_for_every_kind_of_file(model, tmp_path):
    encoder = ImageEncoder(model, max_bytes=1000, max_pixels=100)
    path = tmp_path / "large.png"
    path.write_bytes(png_bytes(64, 48))
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(ImageTooLarge, match="1,000 bytes"):
            encoder.read(source)
    with pytest.raises(ImageTooLarge, match="the limit is 100"):
        encoder.read(encode(Image.new("RGB", (20, 20)), "PNG"))


def test_a_generator_is_asked_for_little_more_than_a_batch_at_a_time(encoder, monkeypatch):
    asked: list[int] = []
    seen: list[int] = []
    embed = encoder._model.embed

    def generate():
        for number in range(50):
            asked.append(number)
            yield jpeg_bytes(seed=number)

    def watch(pixels):
        seen.append(len(asked))
        return embed(pixels)

    watched = ImageEncoder(encoder.description.path, batch_size=4)
    monkeypatch.setattr(watched._model, "embed", watch)
    assert len(watched.bulk_encode(generate(), batch_size=4)) == 50
    assert seen[0] <= 10
    assert len(seen) == 13


def test_a_bad_image_stops_the_generator(encoder):
    asked: list[int] = []

    def generate():
        for number in range(1000):
            asked.append(number)
            yield b"no image"

    with pytest.raises(UndecodableImage, match=r"images\[0\] \(bytes\)"):
        encoder.bulk_encode(generate())
    assert len(asked) < 20


def test_an_image_that_changes_after_it_was_given_is_read_before(encoder):
    frames = [natural_image(32, 32, seed) for seed in range(9)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    with Image.open(file) as film:
        # The iterator yields one object again and again, at another frame each time.
        vectors = encoder.bulk_encode(ImageSequence.Iterator(film))
        expected = [encoder.encode(frame.copy()) for frame in ImageSequence.Iterator(film)]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)

    def one_buffer():
        buffer = np.empty((32, 32, 3), np.uint8)
        for frame in frames:
            buffer[:] = np.asarray(frame)
            yield buffer

    expected = [encoder.encode(frame) for frame in frames]
    np.testing.assert_allclose(encoder.bulk_encode(one_buffer()), expected, atol=1e-5)


def test_a_batch_size_may_be_given_for_one_call(encoder, monkeypatch):
    sizes: list[int] = []
    sized = ImageEncoder(encoder.description.path, batch_size=2)
    embed = sized._model.embed

    def watch(pixels):
        sizes.append(len(pixels))
        return embed(pixels)

    monkeypatch.setattr(sized._model, "embed", watch)
    sized.bulk_encode([jpeg_bytes()] * 9, batch_size=8)
    assert sizes == [8, 1]


def test_wrong_arguments_are_refused_with_what_to_do(encoder, model):
    with pytest.raises(ValueError, match="use 'raise' or 'none'"):
        encoder.bulk_encode([], on_error="skip")
    with pytest.raises(ValueError, match="batch_size is 0"):
        encoder.bulk_encode([], batch_size=0)
    with pytest.raises(ValueError, match="batch_size is -1"):
        ImageEncoder(model, batch_size=-1)
    for size in (1.5, 4.0, "4", True):
        with pytest.raises(ValueError, match=f"batch_size is {size!r}; it must be an int"):
            encoder.bulk_encode([], batch_size=size)
    with pytest.raises(UnusableModel):
        ImageEncoder("/no/such/model")


@pytest.mark.parametrize(
    ("image", "told"),
    [
        *[("photos/", "str"), (Path("a.jpg"), "Path"), (b"bytes", "bytes")],
        *[(bytearray(b"bytes"), "bytearray"), (memoryview(b"bytes"), "memoryview")],
        *[(io.BytesIO(b"one\ntwo"), "BytesIO"), (Image.new("RGB", (9, 9)), "Image")],
        (np.zeros((9, 9, 3), np.uint8), r"shape \[9, 9, 3\]"),
        (np.zeros((9, 9), np.uint8), r"shape \[9, 9\]"),
        (np.zeros(9, np.uint8), r"shape \[9\]"),
    ],
)
def test_one_image_is_not_taken_for_several(encoder, image, told):
    with pytest.raises(TypeError, match=f"put one into a list.*{told}"):
        encoder.bulk_encode(image, on_error="none")


def test_an_array_may_hold_several_images_or_paths(encoder, photographs):
    pixels = np.stack([np.asarray(natural_image(32, 32, seed)) for seed in range(3)])
    expected = [encoder.encode(image) for image in pixels]
    vectors = encoder.bulk_encode(pixels, batch_size=np.int64(2))
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    paths = [str(path) for path in sorted(photographs.glob("0[0-2].jpg"))]
    expected = [encoder.encode(path) for path in paths]
    for column in (np.array(paths), np.array(paths, object)):
        np.testing.assert_allclose(encoder.bulk_encode(column), expected, atol=1e-5)


def test_a_model_of_any_size_needs_a_size(tmp_path):
    model = save_tiny_model(tmp_path, image_height=None, image_width=None)
    with pytest.raises(RequestError, match="names none"):
        ImageEncoder(model)
    encoder = ImageEncoder(model, preprocess=PreprocessConfig(size=(40, 30)))
    assert encoder.read(jpeg_bytes()).shape == (40, 30, 3)
    assert encoder.encode(jpeg_bytes()).shape == (WIDTH,)


def test_a_signature_may_be_asked_for(tmp_path):
    model = save_tiny_model(tmp_path, interface="serving_default")
    named = ImageEncoder(model, request=ModelRequest(signature="serving_default"))
    assert named.description.entry_point == "serving_default"
    assert named.encode(jpeg_bytes()).shape == (WIDTH,)
    with pytest.raises(UnusableModel, match="no_such"):
        ImageEncoder(model, request=ModelRequest(signature="no_such"))


def test_a_notebook_needs_no_beam(model, photographs):
    script = (
        "import sys; from pipeline.encoder import ImageEncoder; "
        f"vectors = ImageEncoder({model!r}).bulk_encode([{str(photographs / '00.jpg')!r}]); "
        f"assert vectors[0].shape == ({WIDTH},); "
        "sys.exit('apache_beam' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
