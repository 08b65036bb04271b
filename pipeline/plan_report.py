"""A plan, as a table for people and as JSON for programs."""

import json
import shutil
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from pipeline.plan_choice import Choice
from pipeline.plan_estimate import MachineEstimate, Share
from pipeline.plan_measure import ScaledDecodingGain
from pipeline.plan_profile import Prices, Rate
from transforms.models.untrained_model import UNTRAINED_NOTE

_LABEL_WIDTH = 11

#: Narrower, and the text would be a column of single words.
_LEAST_WIDTH = 60


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a plan says; its fields are the keys of the JSON."""

    images: int
    """Those listed, bad rows among them."""
    ignored_files: int
    bytes_listed: int
    """Of the images whose listing tells a size."""
    images_of_unknown_size: int
    bytes_estimated: float | None
    """Of those whose listing tells none; None where none of them could be read."""
    sample: int
    formats: Mapping[str, int]
    """Of the decoded images of the sample."""
    megapixels_median: float | None
    megapixels_largest: float | None
    bad_rows: Mapping[str, int]
    """By the class of the error: these fail for certain."""
    failures: Mapping[str, Share]
    """By the class of the error, among all images but bad rows; and `any`, all of them together."""
    expected_failures: float
    """Images, bad rows among them; with the bounds of the interval."""
    expected_failures_low: float
    expected_failures_high: float
    model: str
    model_fingerprint: str
    untrained: bool
    batch_size: int
    precision: str
    embedding_width: int | None
    """Values that are written of each image; None where only loading the model would tell."""
    vector_bytes: float | None
    """Of all vectors in float32, once."""
    scaled_decoding: ScaledDecodingGain | None
    """None where `preprocess.scaled_decoding=auto` would change nothing, or is on already."""
    here: MachineEstimate
    machines: tuple[MachineEstimate, ...]
    prices: Prices
    target_hours: float
    profile: str | None
    """The file; None: the default profile."""
    choice: Choice
    notes: tuple[str, ...]
    """What whoever reads the plan has to know."""


def format_json(plan: Plan) -> str:
    """Return the plan as one JSON object, with the fields of `Plan`; null is unknown."""
    return json.dumps(
        asdict(plan) | {"prices": plan.prices.model_dump()},
        indent=2,
        ensure_ascii=False,
        allow_nan=False,
        default=lambda rate: rate.model_dump(),
    )


def format_table(plan: Plan, width: int | None = None) -> str:
    """Return the plan in lines for a person.

    Args:
        plan: to be shown.
        width: that sentences are broken at, in characters; None: that of the terminal.
    """
    width = max(width or shutil.get_terminal_size().columns, _LEAST_WIDTH)
    facts = (
        ("images", _images(plan)),
        ("bytes", _bytes(plan)),
        ("sample", _sample(plan)),
        *_failures(plan),
        ("model", f"{plan.model}{UNTRAINED_NOTE if plan.untrained else ''}"),
        ("vectors", _vectors(plan)),
        ("decode", _rate(plan.here.decode, "a processor thread")),
        *(("", scaled_decoding_in_words(gain)) for gain in (plan.scaled_decoding,) if gain),
        ("inference", _inference(plan)),
    )
    whys = ((each.name, each.why) for each in (plan.here, *plan.machines))
    notes = (("note", each) for each in plan.notes)
    return "\n".join(
        [
            *(line for label, text in facts for line in _wrapped(label, text, width)),
            "",
            *_machine_rows(plan),
            "",
            *(line for label, text in whys for line in _wrapped(label, text, width)),
            "",
            *(
                line
                for label, text in _choice(plan.choice)
                for line in _wrapped(label, text, width)
            ),
            "",
            *(line for label, text in notes for line in _wrapped(label, text, width)),
        ]
    )


def _wrapped(label: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"{label:<{_LABEL_WIDTH}}",
        subsequent_indent=" " * _LABEL_WIDTH,
        break_long_words=False,
        break_on_hyphens=False,
    )


def median_megapixels(megapixels: Sequence[float]) -> float | None:
    """Return the median, or None of nothing."""
    return statistics.median(megapixels) if megapixels else None


def _images(plan: Plan) -> str:
    ignored = f"; {plan.ignored_files:,} other files" if plan.ignored_files else ""
    return f"{plan.images:,}{ignored}"


def _bytes(plan: Plan) -> str:
    if not plan.images_of_unknown_size:
        return f"{in_bytes(plan.bytes_listed)}, as listed"
    unknown = f"{plan.images_of_unknown_size:,} whose listing tells no size"
    if plan.bytes_estimated is None:
        return f"{in_bytes(plan.bytes_listed)} as listed, and unknown of {unknown}"
    total = plan.bytes_listed + plan.bytes_estimated
    estimated = f"{in_bytes(plan.bytes_estimated)} of them estimated from the sample, for {unknown}"
    return f"{in_bytes(total)}; {estimated}"


def _sample(plan: Plan) -> str:
    parts = [f"{plan.sample:,} images at random"]
    if plan.formats:
        total = sum(plan.formats.values())
        ordered = sorted(plan.formats.items(), key=lambda each: -each[1])
        parts.append(", ".join(f"{name} {count / total:.1%}" for name, count in ordered))
        parts.append(
            f"{plan.megapixels_median:.2g} megapixels (median), {plan.megapixels_largest:.2g} "
            "(largest)"
        )
    return "; ".join(parts)


def _failures(plan: Plan) -> list[tuple[str, str]]:
    references = plan.images - sum(plan.bad_rows.values())
    if plan.sample < references:
        certainty = "95 % interval of Wilson"
    else:
        certainty = "every image was looked at"
    total = (
        f"about {plan.expected_failures:,.0f} of {plan.images:,}; "
        f"from {plan.expected_failures_low:,.0f} to {plan.expected_failures_high:,.0f} "
        f"({certainty})"
    )
    rows = [
        f"{name}: {count:,} rows of the inputs, for certain"
        for name, count in plan.bad_rows.items()
    ]
    classes = [
        f"{name}: {share.seen} of the sample, {share.expected:.2%} "
        f"({share.low:.2%} to {share.high:.2%})"
        for name, share in plan.failures.items()
        if name != "any"
    ]
    return [("failures", total), *(("", each) for each in (*rows, *classes))]


def _vectors(plan: Plan) -> str:
    if plan.embedding_width is None or plan.vector_bytes is None:
        return "of a width that only loading the model tells"
    return (
        f"{plan.embedding_width:,} values each, {in_bytes(plan.vector_bytes)} as float32, in each "
        "format and table that is written"
    )


def _inference(plan: Plan) -> str:
    return (
        f"{_rate(plan.here.inference, 'this machine')}; batches of {plan.batch_size}, "
        f"{plan.precision}"
    )


def _rate(rate: Rate | None, whose: str) -> str:
    if rate is None:
        return f"unknown for {whose}"
    return f"{rate.images_per_second:,.1f} images/s for {whose}, {rate.kind}: {rate.source}"


def scaled_decoding_in_words(gain: ScaledDecodingGain) -> str:
    """Return what scaled decoding would change, and where its price is written down.

    Example:
        >>> scaled_decoding_in_words(ScaledDecodingGain(50, 200, 2.86)).partition(" (")[0]
        'preprocess.scaled_decoding=auto would decode 2.9 times as fast'
    """
    return (
        f"preprocess.scaled_decoding=auto would decode {gain.times_as_fast:.1f} times as fast "
        f"({gain.images:,} of {gain.sample:,} images at a smaller scale; other vectors: "
        "docs/preprocessing.md)"
    )


def _machine_rows(plan: Plan) -> list[str]:
    header = (
        *("machine", "type", "images/s", "bound by", "inference is"),
        *("workers", "time", "USD", "USD per million"),
    )
    rows = [header, *(_machine_row(each, plan.images) for each in (plan.here, *plan.machines))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    # Text to the left, numbers to the right.
    texts = (0, 1, 3, 4)
    return [
        "  ".join(
            cell.ljust(width) if column in texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _machine_row(each: MachineEstimate, images: int) -> tuple[str, ...]:
    more, less = (">= ", "<= ") if each.at_most else ("", "")
    rate, hours, usd = each.images_per_second, each.hours, each.usd
    return (
        each.name,
        each.machine_type,
        "unknown" if rate is None else f"{less}{rate:,.1f}",
        each.bound,
        each.inference.kind if each.inference else "unknown",
        "unknown" if each.workers is None else f"{each.workers}",
        "unknown" if hours is None else f"{more}{in_time(hours)}",
        "unknown" if usd is None else f"{more}{usd:,.2f}",
        "unknown" if usd is None else f"{more}{usd / images * 1e6:,.2f}",
    )


def _choice(choice: Choice) -> list[tuple[str, str]]:
    because = [("because", each) for each in choice.reasons]
    if choice.machine is None:
        return [("chosen", "no machine"), *because]
    settings = [
        f"--set model.batch_size={choice.batch_size}",
        f"--set model.precision={choice.precision}",
        f"--set output.shards={choice.shards}",
    ]
    if choice.config:
        settings = [
            f"--config {choice.config}",
            f"--set beam.max_num_workers={choice.workers}",
            *settings,
        ]
    return [("chosen", f"{choice.machine}:"), ("", " ".join(settings)), *because]


def in_time(hours: float) -> str:
    """Return a time in the unit that suits it.

    Example:
        >>> in_time(0.001), in_time(0.5), in_time(30)
        ('4 s', '30 min', '30.0 h')
    """
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 2 else f"{hours * 3600:.0f} s"


def in_bytes(count: float) -> str:
    """Return an amount of bytes in the unit that suits it.

    Example:
        >>> in_bytes(1_234_567), in_bytes(999)
        ('1.2 MB', '999 bytes')
    """
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} bytes"
