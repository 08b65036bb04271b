"""What the command line of `plan` asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config_layers import Setting
from pipeline.flags import PROGRAM, CommandParser, given_settings, switch
from transforms.errors import RequestError

DEFAULT_SAMPLE = 200

#: More images would take minutes to decode, and say hardly more.
LARGEST_SAMPLE = 10_000

_EPILOG = """\
It takes the configuration and the flags of run, lists the inputs, reads and decodes some of the
images with the job's own functions, runs the model on a batch, and writes nothing. Flags of Beam
are given as keys: --set beam.runner=DataflowRunner.

What it takes: files, folders, patterns, gs://, http(s) URLs, @lists and manifests. BigQuery tables
and queries, which cost to ask, and images inside TFRecords (tfrecord:) are refused.

What it takes for granted: that the storage keeps up with the decoding, and that every image is new,
also with --incremental; one that two inputs name counts twice. Not in the time and the cost: the
start of the workers, the machines of the other steps, shuffle, storage, network, and discounts.

examples:
  What embedding a bucket takes, on this machine and on four kinds of Dataflow's:
    {program} plan --input 'gs://BUCKET/photos/**' --model gs://BUCKET/models/inception
  With the configuration of a job, for a program:
    {program} plan --config job.yaml --json
  With prices and rates of your own:
    {program} plan --print-profile > mine.yaml
    {program} plan --input photos/ --profile mine.yaml

exit status: 0 done, 1 it failed, 2 the request was wrong, 130 interrupted (Ctrl+C)."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What the command line of `plan` asks for."""

    settings: tuple[Setting, ...]
    """In the order in which they count; the output may be missing."""
    profile: str | None
    """A file; None: the default profile."""
    sample: int
    """The most images that are read."""
    print_profile: bool
    json_output: bool
    verbose: bool


def parse_plan(arguments: Sequence[str]) -> PlanRequest:
    """Return what the arguments behind `plan` ask for.

    Raises:
        RequestError: an unknown flag, a flag without its value, or a value out of its range.

    Example:
        >>> parse_plan(["--input=photos", "--sample=50"]).sample
        50
    """
    parser = CommandParser(
        prog=f"{PROGRAM} plan",
        usage=f"{PROGRAM} plan --input PATTERN [flags]",
        description="Say what a job will find, how long it will take and what it will cost.",
        epilog=_EPILOG.format(program=PROGRAM),
    )
    parser.add_job_flags()
    parser.add_argument(
        "--sample",
        metavar="N",
        default=str(DEFAULT_SAMPLE),
        help=f"How many images are read and decoded, from 1 to {LARGEST_SAMPLE} "
        f"(default: {DEFAULT_SAMPLE}).",
    )
    parser.add_argument(
        "--profile",
        metavar="FILE",
        help="A YAML file with prices, machine kinds and rates in place of the default.",
    )
    parser.add_switch("--print-profile", "Print the default profile, and end.")
    parser.add_switch("--json", "Print JSON instead of a table.")
    parser.add_switch("--verbose", "Show what Beam and TensorFlow log, too.")
    parsed = parser.parse_all(arguments)
    if parsed.profile == "":
        raise RequestError(f"--profile is empty; see {PROGRAM} plan --help")
    return PlanRequest(
        settings=tuple(given_settings(parsed)),
        profile=parsed.profile,
        sample=_sample(parsed.sample),
        print_profile=switch("--print-profile", parsed.print_profile),
        json_output=switch("--json", parsed.json),
        verbose=switch("--verbose", parsed.verbose),
    )


def _sample(text: str) -> int:
    # Not isdecimal() alone: "²" and digits of other scripts.
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= LARGEST_SAMPLE:
        return int(text)
    raise RequestError(f"--sample is {text!r}; use a whole number from 1 to {LARGEST_SAMPLE}")
