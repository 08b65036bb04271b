"""Loading, trying and running real, tiny SavedModels."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny_models import save_tiny_model

from transforms.errors import BatchRejected, BatchTooLarge, UnusableModel
from transforms.models.model_description import describe_model
from transforms.networks.hub_model import HubImageModel, try_model

ROOT = Path(__file__).parents[3]
MOBILENET = ROOT.parent / "shared" / "data" / "models" / "mobilenet_v1_feature_vector"


def noise(count: int, height: int = 32, width: int = 32) -> npt.NDArray[np.uint8]:
    """Return images that differ in colour as well as in texture."""
    random = np.random.RandomState(1)
    tint = random.randint(0, 256, (count, 1, 1, 3))
    grain = random.randint(0, 256, (count, height, width, 3))
    return ((tint + grain) // 2).astype(np.uint8)


def plain(colour: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    return np.full((1, 32, 32, 3), colour, np.uint8)


def load(path: str, height: int = 32, width: int = 32, **options: Any) -> HubImageModel:
    return HubImageModel.load(describe_model(path), height=height, width=width, **options)


def cosine_distances(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    left, right = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray(1 - (left * right).sum(axis=1) / norms)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("interface", ["call", "serving_default"])
@pytest.mark.parametrize("size", [(32, 32), (None, None)])
def test_vectors_equal_a_plain_call_of_the_model(
    tmp_path: Path, interface: Any, size: tuple[int | None, int | None]
) -> None:
    import tensorflow_hub

    path = save_tiny_model(tmp_path, interface=interface, image_height=size[0], image_width=size[1])
    model, reference = load(path), tensorflow_hub.load(path)
    for count in (1, 7, 32):
        pixels = noise(count)
        vectors = model.embed(pixels)
        assert vectors.dtype == np.float32
        assert vectors.shape == (count, model.embedding_width)
        expected = reference((pixels / 255).astype(np.float32)).numpy()
        assert cosine_distances(vectors, expected).max() < 1e-6
        np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-4)


def test_training_is_never_used(tiny: str) -> None:
    import tensorflow_hub

    pixels = noise(7)
    trained = tensorflow_hub.load(tiny)((pixels / 255).astype(np.float32), training=True).numpy()
    model = load(tiny)
    first = model.embed(pixels)
    assert cosine_distances(first, trained).min() > 1e-3
    np.testing.assert_array_equal(model.embed(pixels), first)


def test_different_images_get_different_vectors(tiny: str) -> None:
    vectors = load(tiny).embed(noise(8))
    others = np.roll(vectors, 1, axis=0)
    assert cosine_distances(vectors, others).min() > 1e-3


def test_the_value_range_is_what_the_network_sees(tiny: str) -> None:
    import tensorflow_hub

    pixels = noise(3)
    vectors = load(tiny, value_range=(-1.0, 1.0)).embed(pixels)
    expected = tensorflow_hub.load(tiny)((pixels / 127.5 - 1).astype(np.float32)).numpy()
    assert cosine_distances(vectors, expected).max() < 1e-6
    assert cosine_distances(vectors, load(tiny).embed(pixels)).max() > 1e-3


def test_a_model_of_any_size_takes_the_given_one(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path, image_height=None, image_width=None)
    assert load(path, 40, 56).embed(noise(2, 40, 56)).shape == (2, 8)


def test_a_size_that_the_model_does_not_take_is_refused(tiny: str) -> None:
    with pytest.raises(UnusableModel, match="32 x 32 only, not of 40 x 32"):
        load(tiny, 40, 32)


@pytest.mark.parametrize(
    "pixels", [noise(2).astype(np.float32), noise(2)[0], noise(2, 32, 31), noise(2)[..., :1]]
)
def test_other_pixels_than_agreed_are_a_mistake_of_the_caller(
    tiny: str, pixels: npt.NDArray[Any]
) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[n, 32, 32, 3\]"):
        load(tiny).embed(pixels)


@pytest.mark.parametrize("interface", ["call", "serving_default"])
def test_a_refused_image_rejects_its_batch(tmp_path: Path, interface: Any) -> None:
    model = load(save_tiny_model(tmp_path, interface=interface, fault="reject_red"))
    bad = np.concatenate([noise(3), plain((255, 0, 0))])
    with pytest.raises(BatchRejected, match=r"^assertion failed: \[pure red\]$") as caught:
        model.embed(bad)
    assert type(caught.value.__cause__).__name__ == "InvalidArgumentError"
    assert model.embed(bad[:3]).shape == (3, 8)


def test_out_of_memory_says_that_the_batch_is_too_large(tmp_path: Path) -> None:
    model = load(save_tiny_model(tmp_path, fault="out_of_memory_above_4"))
    assert model.embed(noise(4)).shape == (4, 8)
    with pytest.raises(BatchTooLarge, match="memory limit") as caught:
        model.embed(noise(5))
    assert "\n" not in str(caught.value)
    assert try_model(model, 32, 32) == 8


def test_any_other_error_is_passed_on(tmp_path: Path) -> None:
    import tensorflow as tf

    model = load(save_tiny_model(tmp_path, fault="failed_precondition"))
    with pytest.raises(tf.errors.FailedPreconditionError):
        model.embed(noise(1))


def test_nan_is_passed_on_for_the_one_image(tmp_path: Path) -> None:
    model = load(save_tiny_model(tmp_path, fault="nan_on_blue"))
    vectors = model.embed(np.concatenate([noise(2), plain((0, 0, 255))]))
    assert np.isfinite(vectors).all(axis=1).tolist() == [True, True, False]
    assert try_model(model, 32, 32) == 8


def test_two_threads_may_embed_at_once(tiny: str) -> None:
    model, pixels = load(tiny), noise(64)
    batches = [pixels[start : start + size] for start in range(32) for size in (1, 7, 32)]
    alone = [model.embed(batch) for batch in batches]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(model.embed, batches))
    for expected, vectors in zip(alone, together, strict=True):
        np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5)


def test_the_trial_gives_the_width(tiny: str) -> None:
    assert try_model(load(tiny), 32, 32) == 8


def test_the_trial_fits_a_device_that_takes_single_images_only(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path, fault="out_of_memory_above_1")
    assert try_model(load(path), 32, 32) == 8


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("reject_all", r"InvalidArgumentError: assertion failed: \[every image is refused\]"),
        ("out_of_memory_above_0", "ResourceExhaustedError: .*memory limit"),
        ("failed_precondition", "FailedPreconditionError: "),
        ("nan_always", "NaN or Inf in 16 of 16 values of a trial batch$"),
        ("batch_dependent", "changes with the batch around it"),
        ("scaled_by_batch_maximum", "changes with the batch around it"),
        ("non_deterministic", "is not deterministic"),
        ("no_values", "gives vectors without any value for 2 images; it is no image feature model"),
    ],
)
def test_the_trial_refuses_a_model_that_fails(tmp_path: Path, fault: str, told: str) -> None:
    model = load(save_tiny_model(tmp_path, fault=fault))
    with pytest.raises(UnusableModel, match=told) as caught:
        try_model(model, 32, 32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_size", [1, 9, 1000])
def test_the_trial_takes_a_large_batch_where_a_batch_size_is_named(
    tmp_path: Path, batch_size: int
) -> None:
    model = load(save_tiny_model(tmp_path, fault="changes_above_8"))
    assert try_model(model, 32, 32) == 8
    with pytest.raises(UnusableModel, match="changes with the batch around it"):
        try_model(model, 32, 32, batch_size)


@pytest.mark.parametrize("fault", [None, "out_of_memory_above_4", "out_of_memory_above_1"])
def test_a_large_batch_that_changes_nothing_or_does_not_fit_is_no_fault(
    tmp_path: Path, fault: str | None
) -> None:
    assert try_model(load(save_tiny_model(tmp_path, fault=fault)), 32, 32, 32) == 8


def test_the_trial_refuses_a_feature_map_that_the_graph_does_not_announce(tmp_path: Path) -> None:
    import tensorflow as tf

    def call(images: Any) -> Any:
        return tf.raw_ops.PlaceholderWithDefault(input=images, shape=None)

    model = tf.train.Checkpoint()
    specification = tf.TensorSpec([None, 32, 32, 3], tf.float32)
    model.__call__ = tf.function(call, input_signature=[specification])
    tf.saved_model.save(model, str(tmp_path), signatures={})
    with pytest.raises(UnusableModel, match=r"gives a 4-D feature map \[n, 32, 32, 3\]"):
        try_model(load(str(tmp_path)), 32, 32)


@pytest.mark.skipif(not MOBILENET.exists(), reason=f"no real MobileNet at {MOBILENET}")
def test_a_real_mobilenet_gives_what_a_plain_call_gives() -> None:
    import tensorflow_hub

    path = str(MOBILENET)
    model, reference = load(path, 224, 224), tensorflow_hub.load(path)
    assert try_model(model, 224, 224) == model.embedding_width == 1024
    for count in (1, 7, 32):
        pixels = noise(count, 224, 224)
        expected = reference((pixels / 255).astype(np.float32)).numpy()
        assert cosine_distances(model.embed(pixels), expected).max() < 1e-6
