from pathlib import Path

import numpy as np
import pytest
from tiny_models import save_tiny_model

from transforms.models.model_description import describe_model
from transforms.networks.golden_vectors import GoldenVectors, generated_images
from transforms.networks.hub_model import HubImageModel
from transforms.networks.model_checks import check_golden, check_model, check_scaling

MOBILENET = Path(__file__).parents[4] / "shared/data/models/mobilenet_v1_feature_vector"

CHECKS = [
    "runs",
    "finite",
    "deterministic",
    "batch",
    "different images",
    "golden vectors",
    "input scaling",
]


def load(folder, size=32, value_range=(0.0, 1.0)):
    description = describe_model(str(folder))
    return HubImageModel.load(description, height=size, width=size, value_range=value_range)


def verdicts(model, **options):
    height, width = model.description.input_height, model.description.input_width
    findings = check_model(model, generated_images(height, width), **options)
    assert [finding.check for finding in findings] == CHECKS
    assert all(finding.seen for finding in findings)
    assert all(finding.advice for finding in findings if finding.verdict in ("failed", "suspect"))
    return {finding.check: finding for finding in findings}


def not_well(found):
    return {
        name: finding.verdict
        for name, finding in found.items()
        if finding.verdict in ("failed", "suspect")
    }


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found_where_nothing_is_wrong(seed, tmp_path):
    found = verdicts(load(save_tiny_model(tmp_path / "model", seed=seed)))
    assert not not_well(found)
    assert [each for each, finding in found.items() if finding.verdict == "skipped"] == [
        "golden vectors"
    ]


@pytest.mark.parametrize(
    ("fault", "check", "told"),
    [
        ("nan_always", "finite", "NaN or Inf in 16 of 16 values"),
        ("non_deterministic", "deterministic", "of their length apart in 3 runs"),
        ("batch_dependent", "batch", "away from that in a batch of 32"),
        ("reject_all", "runs", "every image is refused"),
        ("failed_precondition", "runs", "never_initialised"),
        ("out_of_memory_above_4", "finite", "no memory for the 6 images"),
    ],
)
def test_one_fault_is_found_by_one_check(fault, check, told, tmp_path):
    found = verdicts(load(save_tiny_model(tmp_path / "model", fault=fault)))
    assert not_well(found) == {check: "failed"}
    assert told in found[check].seen


def test_what_builds_on_a_failed_check_is_skipped(tmp_path):
    found = verdicts(load(save_tiny_model(tmp_path / "model", fault="nan_always")))
    assert found["input scaling"].verdict == "skipped"
    assert "'finite' failed" in found["input scaling"].seen


def test_a_batch_of_32_that_does_not_fit_is_no_fault_of_the_vectors(tmp_path):
    found = verdicts(load(save_tiny_model(tmp_path / "model", fault="out_of_memory_above_8")))
    assert found["batch"].verdict == "skipped"
    assert not not_well(found)


def test_one_vector_for_all_images_is_found(tmp_path):
    found = verdicts(load(save_tiny_model(tmp_path / "model", scale=0.0)))
    assert not_well(found) == {"different images": "failed"}
    assert found["input scaling"].verdict == "skipped"


@pytest.mark.parametrize("seed", range(4))
def test_a_network_that_divides_by_255_itself_is_suspect(seed, tmp_path):
    folder = save_tiny_model(tmp_path / "model", seed=seed, fault="divides_by_255")
    found = verdicts(load(folder))
    assert not_well(found) == {"input scaling": "suspect"}
    assert "preprocess.value_range=[0,255]" in found["input scaling"].advice
    assert not not_well(verdicts(load(folder, value_range=(0.0, 255.0))))


def test_a_range_of_its_own_is_compared_with_the_usual_ones(tmp_path):
    model = load(save_tiny_model(tmp_path / "model"), value_range=(0.0, 0.001))
    finding = check_scaling(model, generated_images(32, 32))
    assert finding.verdict == "suspect"
    assert "at [0, 0.001]" in finding.seen


def test_other_vectors_than_the_golden_ones_are_found(tmp_path):
    model = load(save_tiny_model(tmp_path / "model"))
    right = model.embed(generated_images(32, 32)[:2])
    assert check_golden(model, GoldenVectors(32, 32, right)).verdict == "ok"
    nearly = (right * 1.5 + 1e-4 * np.abs(right).max()).astype(np.float32)
    assert check_golden(model, GoldenVectors(32, 32, nearly)).verdict == "ok"
    other = load(save_tiny_model(tmp_path / "other", seed=1))
    found = verdicts(other, golden=GoldenVectors(32, 32, right))
    assert not_well(found) == {"golden vectors": "failed"}
    narrow = check_golden(model, GoldenVectors(32, 32, right[:, :5]))
    assert narrow.verdict == "failed"
    assert "vectors of 8 values; the golden ones have 5" in narrow.seen


def test_golden_vectors_are_compared_at_their_own_range(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    right = load(folder).embed(generated_images(32, 32)[:2])
    shifted = load(folder, value_range=(-1.0, 1.0))
    assert check_golden(shifted, GoldenVectors(32, 32, right)).verdict == "ok"


@pytest.fixture(scope="module")
def mobilenet():
    if not MOBILENET.is_dir():
        pytest.skip(f"the trained MobileNet is not at {MOBILENET}")
    return str(MOBILENET)


def test_the_trained_mobilenet_is_well(mobilenet):
    assert not not_well(verdicts(load(mobilenet, 224)))


def test_the_trained_mobilenet_is_suspect_behind_a_division_by_255(mobilenet, tmp_path):
    wrapped = save_divided(mobilenet, tmp_path / "wrapped", 224)
    assert not_well(verdicts(load(wrapped, 224))) == {"input scaling": "suspect"}


def save_divided(folder, target, size):
    """Save the network behind a division by 255, with `serving_default`."""
    import tensorflow as tf

    network = tf.saved_model.load(folder)
    signature = network.signatures.get("serving_default")
    module = tf.Module()
    module.network = network

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32, "images")])
    def serve(images):
        if signature is None:
            return {"vectors": network(images / 255.0)}
        (vectors,) = signature(**{signature_input(signature): images / 255.0}).values()
        return {"vectors": vectors}

    tf.saved_model.save(module, str(target), signatures={"serving_default": serve})
    return str(target)


def signature_input(signature):
    (name,) = signature.structured_input_signature[1]
    return name
