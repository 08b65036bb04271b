"""Trying a small network in several precisions."""

from pathlib import Path

import awkward_models
import pytest
from awkward_models import save_network
from convolutional_models import save_convolutional_model
from tiny_models import save_tiny_model

from transforms.errors import UnusableModel
from transforms.models.model_description import describe_model
from transforms.networks.golden_vectors import generated_images
from transforms.networks.hub_model import HubImageModel
from transforms.networks.precision_trial import (
    TRIAL_BATCH,
    PrecisionTrial,
    fastest_faithful,
    try_precisions,
)
from transforms.networks.trial_images import photograph_like_images
from transforms.records import Precision

ROOT = Path(__file__).parents[3]
MOBILENET = ROOT.parent / "shared" / "data" / "models" / "mobilenet_v1_feature_vector"


def load(path: str) -> HubImageModel:
    return HubImageModel.load(describe_model(path), height=32, width=32)


def test_each_precision_is_compared_with_float32(tmp_path: Path) -> None:
    model = load(save_convolutional_model(tmp_path))
    full, short = try_precisions(model, ["bfloat16"], generated_images(32, 32))
    assert full.precision == "float32"
    assert full.mean_distance == full.largest_distance == 0
    assert short.precision == "bfloat16"
    assert 0 < short.mean_distance < short.largest_distance < 1e-3
    assert 0 < full.seconds < 10
    assert 0 < short.seconds < 10


def test_what_cannot_be_run_in_a_precision_stays_in_float32(tmp_path: Path) -> None:
    trials = try_precisions(load(save_tiny_model(tmp_path)), ["bfloat16"], generated_images(32, 32))
    assert "cannot be run in bfloat16" in (trials[1].problem or "")
    assert fastest_faithful(trials) == "float32"


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        ([("bfloat16", 2e-5, 4e-5, 1.0), ("float16", 1e-6, 2e-6, 1.5)], "bfloat16"),
        ([("bfloat16", 2e-4, 3e-4, 1.0), ("float16", 1e-6, 2e-6, 1.5)], "float16"),
        # The mean decides, up to a point.
        ([("bfloat16", 9e-5, 4e-4, 1.0), ("float16", 1e-6, 2e-6, 1.5)], "bfloat16"),
        ([("bfloat16", 9e-5, 6e-4, 1.0), ("float16", 1e-6, 2e-6, 1.5)], "float16"),
        ([("bfloat16", 2e-5, 4e-5, 3.0), ("float16", float("inf"), float("inf"), 0.5)], "float32"),
    ],
)
def test_the_fastest_that_keeps_the_vectors_is_chosen(
    trials: list[tuple[Precision, float, float, float]], chosen: str
) -> None:
    tried = [PrecisionTrial("float32", 0.0, 0.0, 2.0), *(PrecisionTrial(*each) for each in trials)]
    assert fastest_faithful(tried) == chosen


def test_vectors_of_length_zero_are_as_good_as_others(tmp_path: Path) -> None:
    model = load(save_network(tmp_path, awkward_models.zero_for_bright_images))
    images = generated_images(32, 32, 12)
    assert 0 < (model.embed(images) == 0).all(axis=1).sum() < 12
    full, short = try_precisions(model, ["bfloat16"], images)
    assert full.faithful
    assert 0 < short.largest_distance < 1e-3


def test_vectors_that_are_not_finite_cannot_be_compared(tmp_path: Path) -> None:
    model = load(save_network(tmp_path, awkward_models.not_a_number))
    with pytest.raises(UnusableModel, match="gives NaN or Inf"):
        try_precisions(model, ["bfloat16"], generated_images(32, 32))


def test_a_precision_that_fails_is_a_problem_of_its_own(tmp_path: Path) -> None:
    model = load(save_network(tmp_path, awkward_models.beyond_float16))
    full, half, short = try_precisions(model, ["float16", "bfloat16"], generated_images(32, 32))
    assert "float16" in (half.problem or "")
    assert not half.faithful
    assert full.faithful
    assert short.problem is None


@pytest.mark.skipif(not MOBILENET.exists(), reason=f"no real MobileNet at {MOBILENET}")
def test_a_real_mobilenet_is_faithful_in_bfloat16() -> None:
    model = HubImageModel.load(describe_model(str(MOBILENET)), height=224, width=224)
    images = photograph_like_images(224, 224, TRIAL_BATCH)
    _, short = try_precisions(model, ["bfloat16"], images)
    assert short.faithful
