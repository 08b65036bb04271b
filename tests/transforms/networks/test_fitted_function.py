"""What a network is run by where it cannot be rewritten, or where that changes its vectors."""

import json
import logging
from pathlib import Path
from typing import Any

import awkward_models
import numpy as np
import pytest
from awkward_models import SIDE, Network, save_network
from convolutional_models import save_convolutional_model

from transforms.errors import UnusableModel
from transforms.models.model_description import describe_model
from transforms.networks.golden_vectors import generated_images
from transforms.networks.hub_model import HubImageModel


def load(path: str, precision: Any = "float32") -> HubImageModel:
    return HubImageModel.load(describe_model(path), height=SIDE, width=SIDE, precision=precision)


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [each.getMessage() for each in caplog.records if each.name == "embed-images"]
    events = [json.loads(line) for line in lines]
    return [event["reason"] for event in events if event["event"] == "model-not-folded"]


@pytest.fixture(autouse=True)
def everything_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "embed-images")


def test_a_network_that_folding_keeps_is_folded_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(save_convolutional_model(tmp_path))
    assert reasons(caplog) == []


def test_a_network_whose_vectors_would_change_runs_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Two runs of it never agree, as if it had been rewritten wrongly.
    model = load(save_network(tmp_path, awkward_models.noise))
    (reason,) = reasons(caplog)
    assert "vectors would move by" in reason
    assert model.embed(generated_images(SIDE, SIDE)).shape == (6, 8)


def test_a_network_that_cannot_be_frozen_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(save_convolutional_model(tmp_path, looks_up=True))
    assert reasons(caplog) == ["it holds what is no plain variable (used by LookupTableFindV2)"]


def test_vectors_that_are_not_finite_are_no_difference(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(save_network(tmp_path, awkward_models.not_a_number))
    assert reasons(caplog) == []
    assert np.isnan(model.embed(generated_images(SIDE, SIDE))).all()


@pytest.mark.parametrize(
    ("network", "precision"),
    [(awkward_models.noise, "bfloat16"), (awkward_models.beyond_float16, "float16")],
)
def test_a_precision_that_gives_other_vectors_is_refused(
    tmp_path: Path, network: Network, precision: str
) -> None:
    path = save_network(tmp_path, network)
    load(path)
    with pytest.raises(UnusableModel, match=rf"in {precision}: .* other vectors .*float32"):
        load(path, precision)
