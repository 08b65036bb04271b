"""The arithmetic of a plan: from a sample, rates and prices to hours and cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.plan_profile import MachineKind, PlanProfile, Rate

#: The standard normal quantile of 97.5 %: intervals hold with a confidence of 95 %.
_QUANTILE = 1.959964

NOTHING_MEASURED = "no image of the sample could be decoded, so that nothing could be measured"

Bound = Literal["decode", "inference", "unknown"]


@dataclass(frozen=True, slots=True)
class Share:
    """A share of all images, as a sample shows it."""

    seen: int
    """How many images of the sample."""
    expected: float
    low: float
    """With `high`, the interval; both are `expected` where the sample holds every image."""
    high: float


@dataclass(frozen=True, slots=True)
class Work:
    """What a job has to do."""

    images: int
    embedded: float
    """Of these, the share that does not fail, from 0 to 1; with 0 nothing is known of the job."""


@dataclass(frozen=True, slots=True)
class MachineEstimate:
    """What a job takes on one kind of machine."""

    name: str
    config: str | None
    """The configuration that asks for such workers; None for this machine."""
    machine_type: str
    processors: int
    gpu: str | None
    decode: Rate | None
    """Of one processor thread."""
    inference: Rate | None
    """Of the whole machine."""
    images_per_second: float | None
    """Of one machine, decoding and inference together; None where nothing is known."""
    at_most: bool
    """Inference is unknown: the rate is no more than this, hours and cost no less."""
    bound: Bound
    why: str
    workers: int | None
    hours: float | None
    usd_hour: float | None
    """Of one machine."""
    usd: float | None


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of Wilson for a share (https://doi.org/10.2307/2276774).

    Unlike the interval of the textbooks it says something where none or all were hit.

    Args:
        hits: from 0 to `trials`.
        trials: 1 or more.

    Example:
        >>> low, high = wilson_interval(0, 200)
        >>> low, round(high, 4)
        (0.0, 0.0188)
    """
    share, square = hits / trials, _QUANTILE**2
    centre = share + square / (2 * trials)
    spread = _QUANTILE * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    scale = 1 + square / trials
    low = 0.0 if hits == 0 else (centre - spread) / scale
    high = 1.0 if hits == trials else (centre + spread) / scale
    return low, high


def expected_shares(seen: Mapping[str, int], sample: int, population: int) -> dict[str, Share]:
    """Return the share of each kind among all images.

    Args:
        seen: how many of the sample are of each kind.
        sample: how many images it holds.
        population: how many images it was drawn from.

    Example:
        >>> expected_shares({"UndecodableImage": 1}, sample=4, population=4)
        {'UndecodableImage': Share(seen=1, expected=0.25, low=0.25, high=0.25)}
    """
    shares = {}
    for kind, count in seen.items():
        expected = count / sample
        low, high = wilson_interval(count, sample) if sample < population else (expected, expected)
        shares[kind] = Share(count, expected, low, high)
    return shares


def machine_estimate(
    work: Work,
    name: str,
    machine_type: str,
    *,
    processors: int,
    gpu: str | None,
    decode: Rate | None,
    inference: Rate | None,
    usd_hour: float | None,
    target_hours: float,
    max_workers: int,
    config: str | None = None,
) -> MachineEstimate:
    """Return what the work takes on so many machines of a kind that it is done in time.

    With a GPU, the slower of decoding and inference sets the pace. Without one both take turns on
    the processors, so that their times add up.

    Example:
        >>> rate = lambda value: Rate(images_per_second=value, kind="measured", source="a test")
        >>> estimate = machine_estimate(Work(36_000, 1.0), "cpu", "n2-standard-2", processors=2,
        ...     gpu=None, decode=rate(100.0), inference=rate(50.0), usd_hour=0.5, target_hours=0.1,
        ...     max_workers=9)
        >>> round(estimate.images_per_second, 1), estimate.workers, round(estimate.usd, 3)
        (40.0, 3, 0.125)
    """
    decoding = decode.images_per_second * processors if decode else None
    rate, bound, why = _pace(work, processors, gpu, decoding, inference)
    hours_of_one = work.images / rate / 3600 if rate else None
    workers = None
    if hours_of_one is not None:
        workers = min(max(math.ceil(hours_of_one / target_hours), 1), max_workers)
    return MachineEstimate(
        name=name,
        config=config,
        machine_type=machine_type,
        processors=processors,
        gpu=gpu,
        decode=decode,
        inference=inference,
        images_per_second=rate,
        at_most=rate is not None and inference is None,
        bound=bound,
        why=why,
        workers=workers,
        hours=hours_of_one / workers if hours_of_one is not None and workers else None,
        usd_hour=usd_hour,
        usd=None if hours_of_one is None or usd_hour is None else hours_of_one * usd_hour,
    )


def _pace(
    work: Work,
    processors: int,
    gpu: str | None,
    decoding: float | None,
    inference: Rate | None,
) -> tuple[float | None, Bound, str]:
    """Return the images a second of one machine, what bounds them, and why."""
    if decoding is None or not work.embedded:
        return None, "unknown", NOTHING_MEASURED
    decodes = f"{processors} processor threads decode {decoding:,.0f} images/s"
    if inference is None:
        return decoding, "unknown", f"{decodes}; what the network takes is unknown"
    # Images that fail are decoded, more or less, and never embedded.
    inferring = inference.images_per_second / work.embedded
    if gpu is None:
        rate = 1 / (1 / decoding + 1 / inferring)
        share = rate / inferring
        bound: Bound = "inference" if share >= 0.5 else "decode"
        why = (
            f"{decodes} or infer {inference.images_per_second:,.1f}, by turns: inference takes "
            f"{share:.0%} of their time"
        )
        return rate, bound, why
    infers = f"the GPU infers {inference.images_per_second:,.1f}"
    if decoding < inferring:
        return decoding, "decode", f"{decodes}, {infers}: the GPU waits for the processors"
    return inferring, "inference", f"{decodes}, {infers}: the processors wait for the GPU"


def estimate_kinds(
    work: Work, profile: PlanProfile, here: MachineEstimate, precision: str
) -> list[MachineEstimate]:
    """Return what the work takes on each kind of machine of a profile.

    Args:
        work: of the job.
        profile: with the kinds.
        here: this machine, whose rates stand in for those that the profile does not know.
        precision: of the job; other processors need not have those of 16 bits.
    """
    return [
        machine_estimate(
            work,
            name,
            kind.machine_type,
            processors=kind.vcpus,
            gpu=kind.gpu,
            decode=kind.decode or _as_here(here.decode, "a vCPU like a processor thread of"),
            inference=kind.inference or _inference_like_here(kind, here, precision),
            usd_hour=kind.usd_hour(profile.prices),
            target_hours=profile.target_hours,
            max_workers=kind.max_workers,
            config=kind.config,
        )
        for name, kind in profile.machines.items()
    ]


def _as_here(rate: Rate | None, how: str, factor: float = 1.0) -> Rate | None:
    if rate is None:
        return None
    return Rate(
        images_per_second=rate.images_per_second * factor,
        kind="derived",
        source=f"{how} this machine ({rate.kind}: {rate.source})",
    )


def _inference_like_here(kind: MachineKind, here: MachineEstimate, precision: str) -> Rate | None:
    """Return the rate of other processors, in proportion; of a GPU nothing here tells anything."""
    if kind.gpu is not None or here.gpu is not None or precision != "float32":
        return None
    return _as_here(
        here.inference, "in proportion to the processors of", kind.vcpus / here.processors
    )
