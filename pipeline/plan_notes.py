"""What whoever reads a plan has to know besides its numbers."""

from collections.abc import Sequence

from pipeline.config import JobConfig
from pipeline.plan_estimate import MachineEstimate
from pipeline.plan_measure import ScaledDecodingGain
from pipeline.plan_profile import PlanProfile
from pipeline.plan_report import scaled_decoding_in_words
from pipeline.plan_sample import Listing, named_more_than_once

#: Less lies within what two measurements of the same differ by.
_WORTH_SAYING = 1.1


def plan_notes(
    config: JobConfig,
    profile: PlanProfile,
    listing: Listing,
    failures: tuple[float, float],
    here: MachineEstimate,
    machines: Sequence[MachineEstimate],
    gain: ScaledDecodingGain | None,
) -> list[str]:
    """Return the notes of a plan, each a sentence or two.

    Args:
        config: of the job.
        profile: of the plan.
        listing: complete.
        failures: the fewest and the most images that are expected to fail.
        here: this machine.
        machines: the other kinds.
        gain: of scaled decoding, where the job does without and it applies.
    """
    notes = []
    low, high = (each / listing.images for each in failures)
    allowed = config.failures.max_ratio
    if high > allowed:
        will = "will" if low > allowed else "may"
        notes.append(
            f"the job {will} fail: {low:.1%} to {high:.1%} of the images cannot be embedded, and "
            f"failures.max_ratio is {allowed:.1%}"
        )
    bound = [each.name for each in (here, *machines) if each.bound == "decode"]
    if bound and gain is not None and gain.times_as_fast >= _WORTH_SAYING:
        notes.append(f"decoding bounds {', '.join(bound)}: {scaled_decoding_in_words(gain)}")
    unknown = [each.name for each in machines if each.at_most]
    if unknown:
        notes.append(
            f"{', '.join(unknown)}: inference is unknown there; measure it with `embed-images plan "
            f"--json` on such a machine, and write it to machines.{unknown[0]}.inference of a "
            "profile (--print-profile)"
        )
    if config.output.incremental:
        notes.append("every image counts as new, whatever the output holds already")
    if named_more_than_once(config.input.patterns):
        notes.append("an image that is named twice counts twice here; the job embeds it once")
    prices = profile.prices
    notes.append(
        f"prices are of {prices.region}, read on {prices.read_on}: {prices.source}. Not in them: "
        "discounts such as that of FlexRS, the start of the workers, the machines of the other "
        "steps, shuffle, storage, network"
    )
    return notes
