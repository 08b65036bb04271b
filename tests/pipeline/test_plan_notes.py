"""When `plan` says that large JPEGs make decoding the bound."""

import pytest

from pipeline.config_layers import resolve_without_paths
from pipeline.plan_estimate import MachineEstimate, Work, machine_estimate
from pipeline.plan_measure import ScaledDecodingGain
from pipeline.plan_notes import plan_notes
from pipeline.plan_profile import Rate, load_profile
from pipeline.plan_sample import Listing


def machine(name: str, decode: float, inference: float, gpu: str | None = None) -> MachineEstimate:
    return machine_estimate(
        Work(1000, 1.0),
        name,
        "a machine",
        processors=1,
        gpu=gpu,
        decode=Rate(images_per_second=decode, kind="measured", source="a test"),
        inference=Rate(images_per_second=inference, kind="measured", source="a test"),
        usd_hour=None,
        target_hours=1.0,
        max_workers=1,
    )


BY_INFERENCE = machine("here", decode=100.0, inference=50.0)
BY_DECODING = [machine("l4", 100.0, 500.0, "a GPU"), machine("cpu", 100.0, 500.0)]
THREE_TIMES = ScaledDecodingGain(images=40, sample=200, times_as_fast=2.94)


def notes(machines: list[MachineEstimate], gain: ScaledDecodingGain | None) -> list[str]:
    every = plan_notes(
        resolve_without_paths([]),
        load_profile(None),
        Listing(images=1000),
        (0.0, 0.0),
        BY_INFERENCE,
        machines,
        gain,
    )
    return [each for each in every if "scaled_decoding" in each]


def test_where_decoding_bounds_a_machine_scaled_decoding_is_named() -> None:
    assert notes(BY_DECODING, THREE_TIMES) == [
        "decoding bounds l4, cpu: preprocess.scaled_decoding=auto would decode 2.9 times as fast "
        "(40 of 200 images at a smaller scale; other vectors: docs/preprocessing.md)"
    ]


@pytest.mark.parametrize(
    ("machines", "gain"),
    [
        ([], THREE_TIMES),
        (BY_DECODING, None),
        (BY_DECODING, ScaledDecodingGain(images=1, sample=200, times_as_fast=1.04)),
    ],
)
def test_else_it_is_not(machines: list[MachineEstimate], gain: ScaledDecodingGain | None) -> None:
    assert notes(machines, gain) == []
