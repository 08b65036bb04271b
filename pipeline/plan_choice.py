"""The settings that a plan would choose: the machines, how many of them, and what they are told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.plan_estimate import NOTHING_MEASURED, MachineEstimate
from pipeline.plan_profile import PlanProfile

#: What one output file should hold at most: a size that tools and copies take in one go.
_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings that a plan would choose."""

    machine: str | None
    """None where nothing tells one machine from another."""
    config: str | None
    workers: int | None
    batch_size: int
    precision: str
    shards: int
    reasons: tuple[str, ...]


def choose(
    here: MachineEstimate,
    kinds: Sequence[MachineEstimate],
    profile: PlanProfile,
    *,
    batch_size: int,
    batch_size_is_given: bool,
    precision: str,
    shards: int,
    vector_bytes: float | None,
) -> Choice:
    """Return the settings for the cheapest machine whose rates are known, or for this one.

    This machine is taken where it is done within the target of the profile.

    Args:
        here: this machine.
        kinds: the others, in the order of the profile.
        profile: of the plan.
        batch_size: of the configuration.
        batch_size_is_given: the user named it, so that it stays.
        precision: of the job, which stays: another one makes other vectors.
        shards: of the configuration; 0: not named.
        vector_bytes: of the output, if known.
    """
    target = profile.target_hours
    in_time = here.hours is not None and not here.at_most and here.hours <= target
    known = [each for each in kinds if each.usd is not None and not each.at_most]
    chosen = here if in_time else min(known, key=lambda each: each.usd or 0.0, default=None)
    if chosen is None:
        measured = any(each.images_per_second is not None for each in (here, *kinds))
        unknown = "of no machine kind both the rates and the price are known"
        reasons = [unknown if measured else NOTHING_MEASURED]
    elif in_time:
        reasons = [f"this machine is done within the {target:g} h of target_hours"]
    else:
        reasons = [f"{chosen.name} is the cheapest kind whose rates and price are known"]
    if chosen is not None and chosen is not here:
        cheaper = [
            f"{each.name} (USD {each.usd:,.2f} or more)"
            for each in kinds
            if each.at_most and each.usd is not None and each.usd < (chosen.usd or 0.0)
        ]
        if cheaper:
            reasons.append(f"not ruled out, for their inference is unknown: {', '.join(cheaper)}")
        if chosen.hours is not None and chosen.hours > target:
            reasons.append(
                f"even {chosen.workers} workers, the most of the profile, take longer "
                f"than the {target:g} h of target_hours"
            )
    workers = chosen.workers if chosen else None
    if not batch_size_is_given and chosen is not None and chosen is not here:
        batch_size = profile.machines[chosen.name].batch_size
    return Choice(
        machine=chosen.name if chosen else None,
        config=chosen.config if chosen else None,
        workers=workers,
        batch_size=batch_size,
        precision=precision,
        shards=shards or max(workers or 1, math.ceil((vector_bytes or 0.0) / _FILE_BYTES)),
        reasons=tuple(reasons),
    )
