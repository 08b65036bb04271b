"""Trying a small network in several precisions."""

from pathlib import Path

import numpy as np
import pytest
from convolutional_models import save_convolutional_model
from tiny_models import save_tiny_model

from transforms.models.model_description import describe_model
from transforms.networks.golden_vectors import generated_images
from transforms.networks.hub_model import HubImageModel
from transforms.networks.precision_trial import (
    PrecisionTrial,
    fastest_faithful,
    largest_cosine_distance,
    try_precisions,
)


def load(path: str) -> HubImageModel:
    return HubImageModel.load(describe_model(path), height=32, width=32)


def test_each_precision_is_compared_with_float32(tmp_path: Path) -> None:
    model = load(save_convolutional_model(tmp_path))
    full, short = try_precisions(model, ["bfloat16"], generated_images(32, 32))
    assert full.precision == "float32"
    assert full.distance < 1e-12
    assert short.precision == "bfloat16"
    assert 0 < short.distance < 1e-3
    assert 0 < full.seconds < 10
    assert 0 < short.seconds < 10


def test_what_cannot_be_run_in_a_precision_stays_in_float32(tmp_path: Path) -> None:
    trials = try_precisions(load(save_tiny_model(tmp_path)), ["bfloat16"], generated_images(32, 32))
    assert "cannot be run in bfloat16" in (trials[1].problem or "")
    assert fastest_faithful(trials) == "float32"


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        ([("bfloat16", 2e-5, 1.0), ("float16", 1e-6, 1.5)], "bfloat16"),
        ([("bfloat16", 2e-4, 1.0), ("float16", 1e-6, 1.5)], "float16"),
        ([("bfloat16", 2e-5, 3.0), ("float16", float("inf"), 0.5)], "float32"),
    ],
)
def test_the_fastest_that_keeps_the_vectors_is_chosen(
    trials: list[tuple[str, float, float]], chosen: str
) -> None:
    tried = [PrecisionTrial("float32", 0.0, 2.0), *(PrecisionTrial(*each) for each in trials)]
    assert fastest_faithful(tried) == chosen


def test_vectors_that_are_not_finite_are_as_far_as_can_be() -> None:
    one = np.float32([[1, 2], [3, 4]])
    assert largest_cosine_distance(one, np.float32([[1, 2], [3, np.nan]])) == float("inf")
