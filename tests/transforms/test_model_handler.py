import pickle

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.testing.util import BeamAssertException, assert_that
from convolutional_models import save_convolutional_model
from tiny_models import save_tiny_model

from transforms.errors import BrokenModel, UnusableModel
from transforms.model_handler import HubImageModelHandler, ModelSettings, load_once_per_process
from transforms.models.model_description import describe_model
from transforms.networks.batch_isolation import EmbeddedPixels
from transforms.networks.device import device_kind, why_not
from transforms.networks.vector_distance import cosine_distances

WIDTH = 8


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), embedding_width=WIDTH)


def settings_of(folder, batch_size=4, **changes):
    values = {
        "handle": folder,
        "fingerprint": describe_model(folder).fingerprint,
        "height": 32,
        "width": 32,
        "value_range": (0.0, 1.0),
        "batch_size": batch_size,
    }
    return ModelSettings(**{**values, **changes})


def photographs(count):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(count)]


def plain_vectors(folder, images):
    import tensorflow_hub

    model = tensorflow_hub.load(folder)
    return np.asarray(model(np.stack(images).astype(np.float32) / 255))


def cosine_distance(first, second):
    return 1 - np.dot(first, second) / (np.linalg.norm(first) * np.linalg.norm(second))


@pytest.mark.parametrize("count", [1, 7, 32])
def test_the_answers_are_the_vectors_of_a_plain_model_call(model_folder, count):
    images = photographs(count)
    handler = HubImageModelHandler(settings_of(model_folder, batch_size=32))
    answers = handler.run_inference(images, handler.load_model())
    for answer, expected in zip(answers, plain_vectors(model_folder, images), strict=True):
        assert isinstance(answer, EmbeddedPixels)
        assert answer.vector.dtype == np.float32
        assert cosine_distance(answer.vector, expected) < 1e-6


def test_the_handler_survives_a_pickle_round_trip(model_folder):
    handler = HubImageModelHandler(
        settings_of(model_folder), share_between_processes=True, copies=2
    )
    copy = pickle.loads(pickle.dumps(handler))
    assert copy.share_model_across_processes()
    assert copy.model_copies() == 2
    assert dict(copy.batch_elements_kwargs()) == {"min_batch_size": 4, "max_batch_size": 4}
    assert len(copy.run_inference(photographs(1), copy.load_model())) == 1


def test_the_bytes_of_a_batch_are_those_of_its_pixels(model_folder):
    handler = HubImageModelHandler(settings_of(model_folder))
    assert handler.get_num_bytes(photographs(3)) == 3 * 32 * 32 * 3


def test_a_process_holds_one_copy_for_as_long_as_somebody_uses_it(model_folder):
    settings = settings_of(model_folder)
    first = load_once_per_process(settings)
    assert HubImageModelHandler(settings).load_model().embedder() is first
    assert load_once_per_process(settings_of(model_folder, batch_size=8)) is not first


def test_copies_that_processes_share_are_loaded_one_by_one(model_folder):
    handler = HubImageModelHandler(settings_of(model_folder), share_between_processes=True)
    assert handler.load_model().embedder() is not handler.load_model().embedder()


def test_a_large_batch_is_tried_once_before_the_job_and_not_by_every_worker(tmp_path):
    folder = save_tiny_model(tmp_path, fault="changes_above_8")
    with pytest.raises(UnusableModel, match="changes with the batch around it"):
        load_once_per_process(settings_of(folder, batch_size=32))
    HubImageModelHandler(settings_of(folder, batch_size=32)).load_model().embedder()


def test_a_worker_that_finds_another_model_stops_the_job(model_folder):
    handler = HubImageModelHandler(settings_of(model_folder, fingerprint="0123456789abcdef"))
    model = handler.load_model()
    with pytest.raises(BrokenModel, match="planned with 0123456789abcdef"):
        handler.run_inference(photographs(1), model)


def test_a_worker_that_does_not_compute_in_the_precision_of_the_job_stops_it(model_folder):
    if device_kind() == "gpu":
        pytest.skip("a GPU computes in float16")
    handler = HubImageModelHandler(settings_of(model_folder, precision="float16"))
    model = handler.load_model()
    with pytest.raises(BrokenModel, match=r"computes in float16, and the worker .* does not: "):
        handler.run_inference(photographs(1), model)


def test_a_worker_without_a_gpu_that_is_required_stops_the_job(model_folder):
    if device_kind() == "gpu":
        pytest.skip("this machine has a GPU")
    handler = HubImageModelHandler(settings_of(model_folder, gpu="required"))
    with pytest.raises(BrokenModel, match="TensorFlow sees no GPU"):
        handler.run_inference(photographs(1), handler.load_model())


@pytest.mark.skipif(why_not("bfloat16") is not None, reason=f"{why_not('bfloat16')}")
def test_the_handler_computes_in_the_precision_of_the_job(tmp_path):
    folder, images = save_convolutional_model(tmp_path), photographs(4)
    vectors = {}
    for precision in ("float32", "bfloat16"):
        handler = HubImageModelHandler(settings_of(folder, precision=precision))
        answers = handler.run_inference(images, handler.load_model())
        vectors[precision] = np.stack([answer.vector for answer in answers])
    assert 0 < cosine_distances(vectors["float32"], vectors["bfloat16"]).max() < 1e-4


def test_a_model_without_a_batch_is_never_loaded(tmp_path):
    nowhere = settings_of(save_tiny_model(tmp_path / "model"), handle=str(tmp_path / "nowhere"))
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create([])
            | RunInference(KeyedModelHandler(HubImageModelHandler(nowhere)))
        )


@pytest.mark.parametrize("share_between_processes", [False, True])
def test_it_works_under_run_inference_also_behind_the_proxy_of_a_shared_model(
    model_folder, share_between_processes
):
    images = photographs(5)
    expected = plain_vectors(model_folder, images)

    def check(keyed_answers):
        if sorted(key for key, _ in keyed_answers) != list(range(5)):
            raise BeamAssertException("not every image has one answer")
        for key, answer in keyed_answers:
            if cosine_distance(answer.vector, expected[key]) > 1e-6:
                raise BeamAssertException(f"image {key} has the vector of another one")

    handler = HubImageModelHandler(
        settings_of(model_folder), share_between_processes=share_between_processes
    )
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        answers = (
            pipeline
            | beam.Create(list(enumerate(images)))
            | RunInference(KeyedModelHandler(handler))
        )
        assert_that(answers, check)
