"""The arithmetic of `plan`, against numbers worked out by hand."""

import math
import random

import pytest

from pipeline.plan_choice import choose
from pipeline.plan_estimate import (
    MachineEstimate,
    Work,
    estimate_kinds,
    expected_shares,
    machine_estimate,
    wilson_interval,
)
from pipeline.plan_profile import Rate, load_profile


def rate(images_per_second: float) -> Rate:
    return Rate(images_per_second=images_per_second, kind="measured", source="a test")


def estimate(
    decode: float | None,
    inference: float | None,
    *,
    images: int = 1_000_000,
    embedded: float = 1.0,
    gpu: str | None = None,
    processors: int = 4,
    max_workers: int = 8,
) -> MachineEstimate:
    return machine_estimate(
        Work(images, embedded),
        "here",
        "a machine",
        processors=processors,
        gpu=gpu,
        decode=(decode and rate(decode)) or None,
        inference=(inference and rate(inference)) or None,
        usd_hour=2.0,
        target_hours=1.0,
        max_workers=max_workers,
    )


# Without a GPU, 400 decoded or 100 inferred a second: 1/400 + 1/100 = 1/80 of a second an image.
# 1,000,000 / 80 = 12,500 s = 3.4722 h of one machine at 2 USD; 4 workers, 0.868 h each.
def test_processors_decode_and_infer_by_turns() -> None:
    found = estimate(decode=100.0, inference=100.0)

    assert found.images_per_second == pytest.approx(80.0)
    assert (found.bound, found.workers, found.at_most) == ("inference", 4, False)
    assert found.hours == pytest.approx(0.868, abs=1e-3)
    assert found.usd == pytest.approx(6.944, abs=1e-3)


@pytest.mark.parametrize(
    ("inference", "pace", "bound"), [(300.0, 300.0, "inference"), (500.0, 400.0, "decode")]
)
def test_beside_a_gpu_the_slower_of_the_two_sets_the_pace(
    inference: float, pace: float, bound: str
) -> None:
    found = estimate(decode=100.0, inference=inference, gpu="a GPU")

    assert (found.images_per_second, found.bound) == (pace, bound)
    assert "waits for" in found.why or "wait for" in found.why


# Half of the images are decoded and not embedded: the GPU keeps up with twice as many.
def test_images_that_fail_are_decoded_and_not_embedded() -> None:
    assert estimate(100.0, 150.0, embedded=0.5, gpu="a GPU").images_per_second == 300.0


@pytest.mark.parametrize("gpu", [None, "a GPU"])
def test_where_no_image_could_be_decoded_known_rates_say_nothing_of_the_job(
    gpu: str | None,
) -> None:
    nothing = estimate(100.0, 150.0, embedded=0.0, gpu=gpu)

    assert nothing.images_per_second is nothing.hours is nothing.usd is nothing.workers is None
    assert (nothing.bound, nothing.at_most) == ("unknown", False)
    assert "nothing could be measured" in nothing.why


def test_an_unknown_inference_gives_bounds_and_no_numbers_out_of_the_air() -> None:
    found = estimate(decode=100.0, inference=None, gpu="a GPU")

    assert (found.images_per_second, found.at_most, found.bound) == (400.0, True, "unknown")
    nothing = estimate(decode=None, inference=100.0)
    assert nothing.images_per_second is nothing.hours is nothing.usd is nothing.workers is None


def test_more_workers_than_allowed_are_not_taken() -> None:
    found = estimate(decode=100.0, inference=100.0, max_workers=2)

    assert found.workers == 2
    assert found.hours == pytest.approx(1.736, abs=1e-3)
    assert found.usd == pytest.approx(6.944, abs=1e-3)


# Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_that_of_wilson(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(hits, trials) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draw = random.Random(0)
    held = 0
    for _ in range(2000):
        hits = sum(draw.random() < 0.05 for _ in range(200))
        low, high = wilson_interval(hits, 200)
        held += low <= 0.05 <= high

    assert 0.93 < held / 2000 < 0.98


def test_a_sample_of_all_images_leaves_no_doubt() -> None:
    share = expected_shares({"UndecodableImage": 3}, sample=12, population=12)["UndecodableImage"]
    assert (share.expected, share.low, share.high) == (0.25, 0.25, 0.25)
    guessed = expected_shares({"UndecodableImage": 3}, sample=12, population=13)
    assert guessed["UndecodableImage"].low < 0.25 < guessed["UndecodableImage"].high


def test_processors_elsewhere_count_in_proportion_and_gpus_not_at_all() -> None:
    profile = load_profile(None)
    here = estimate(decode=100.0, inference=20.0, processors=2)
    kinds = {each.name: each for each in estimate_kinds(Work(10, 1.0), profile, here, "float32")}

    cpu = kinds["cpu"]
    assert cpu.inference is not None
    assert (cpu.inference.images_per_second, cpu.inference.kind) == (80.0, "derived")
    assert cpu.images_per_second == pytest.approx(1 / (1 / 800 + 1 / 80))
    assert [kinds[name].inference for name in ("t4", "l4", "a100")] == [None, None, None]
    assert kinds["a100"].images_per_second == 1200.0
    # 8 x 0.056 + 30 x 0.003557 + 100 x 0.000054 + 0.42
    assert kinds["t4"].usd_hour == pytest.approx(0.98011)


def test_a_short_precision_is_not_expected_of_other_processors() -> None:
    here = estimate(decode=100.0, inference=20.0)
    kinds = estimate_kinds(Work(10, 1.0), load_profile(None), here, "bfloat16")

    assert [(each.inference, each.at_most) for each in kinds] == [(None, True)] * 4


def choice(work: Work, here: MachineEstimate, inference_of_l4: float | None = None, **changes: int):
    profile = load_profile(None)
    if inference_of_l4 is not None:
        known = profile.machines["l4"].model_copy(update={"inference": rate(inference_of_l4)})
        machines = {**profile.machines, "l4": known}
        profile = profile.model_copy(update={"machines": machines})
    settings = {"batch_size": 32, "batch_size_is_given": False, "shards": 0} | changes
    return choose(
        here,
        estimate_kinds(work, profile, here, "float32"),
        profile,
        precision="float32",
        vector_bytes=10e9,
        **settings,
    )


def test_this_machine_is_chosen_where_it_is_done_in_time() -> None:
    here = estimate(decode=100.0, inference=100.0, images=1000)
    chosen = choice(Work(1000, 1.0), here)

    assert (chosen.machine, chosen.config, chosen.workers) == ("here", None, 1)
    # 10 GB in files of 256 MiB at most.
    assert (chosen.batch_size, chosen.shards) == (32, 38)


def test_else_the_cheapest_kind_that_is_known_and_nothing_is_hidden() -> None:
    work = Work(10_000_000, 1.0)
    here = estimate(decode=100.0, inference=20.0, images=10_000_000)
    by_processors = choice(work, here)
    with_gpu = choice(work, here, inference_of_l4=700.0)

    assert (by_processors.machine, by_processors.workers) == ("cpu", 16)
    assert any("t4 (USD" in reason for reason in by_processors.reasons)
    assert any("even 16 workers" in reason for reason in by_processors.reasons)
    assert (with_gpu.machine, with_gpu.config) == ("l4", "configs/dataflow_l4.yaml")
    assert with_gpu.batch_size == 64
    assert choice(work, here, 700.0, batch_size_is_given=True, shards=5).batch_size == 32
    assert choice(work, here, 700.0, shards=5).shards == 5


def test_nothing_is_chosen_where_nothing_is_known() -> None:
    here = estimate(decode=None, inference=None)
    chosen = choice(Work(10, 1.0), here)

    assert (chosen.machine, chosen.workers) == (None, None)
    assert "nothing could be measured" in chosen.reasons[0]


def test_the_least_and_the_most_that_a_profile_may_hold_give_finite_numbers() -> None:
    profile = load_profile(None)
    most = {"vcpus": 10**6, "memory_gb": 1e6, "disk_gb": 1e6, "gpu_hour": 1e6}
    slowest = rate(1e-6)
    for kind in (profile.machines["t4"], profile.machines["t4"].model_copy(update=most)):
        prices = profile.prices.model_copy(
            update={"vcpu_hour": 1e6, "memory_gb_hour": 1e6, "disk_gb_hour": 1e6}
        )
        for decode in (slowest, rate(1e9)):
            found = machine_estimate(
                Work(10**12, 1e-9),
                "t4",
                "a machine",
                processors=kind.vcpus,
                gpu=kind.gpu,
                decode=decode,
                inference=slowest,
                usd_hour=kind.usd_hour(prices),
                target_hours=0.001,
                max_workers=10**6,
            )
            assert found.usd is not None
            assert math.isfinite(found.usd)
            assert found.usd > 0
