"""What the command line of `retry` asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config_layers import Setting
from pipeline.flags import PROGRAM, CommandParser, given_settings, switch
from transforms.errors import RequestError

#: What the dead letters themselves decide.
INPUT_KEYS = (
    *("input.patterns", "input.query", "input.query_dataset"),
    *("input.uri_column", "input.carry"),
)

#: Those flags of `run` that a retry does not take.
_NOT_TAKEN = ("--input", "--input-query", "--prune")

_EPILOG = """\
The configuration is that of the run, from the run.json beside its dead letters; --config, --set
and flags beat it. Flags of Beam are not part of it: give them again, here or with --config. The
columns that were carried along are carried along again. Three things are not taken over from the
run or from --config: --overwrite and --prune, and failures.max_ratio, which is 1 for a retry
unless --max-failure-ratio says otherwise, since what failed once may well fail again.
model.precision=auto of the run or of --config is the precision that the run settled on, so that the
vectors go together; --set model.precision=auto settles it anew.

A table and an incremental output are added to: a run of its own, which skips what has been embedded
meanwhile. The complete folder of a plain run is not, so that --output has to name another one.

Rows of a manifest or a query that name no image, and images inside TFRecords, cannot be tried by
themselves; they are named and left out.

With --error, the dead letters of these classes are copied to dead_letters/retry-TIME.jsonl beside
them, where every worker can read them.

flags of Beam:
  Every other flag is Beam's, as for {program} run.

examples:
  What failed, and why:
    {program} retry --from embeddings/dead_letters --list
  The images of one class, into another folder:
    {program} retry --from embeddings/dead_letters --error ImageUnreachable --output more/
  All that failed in the last run of an incremental output, into the same folder and table:
    {program} retry --from gs://BUCKET/embeddings --temp_location=gs://BUCKET/tmp

exit status: 0 done, or nothing to retry; 1 the job failed, 2 the request was wrong."""


@dataclass(frozen=True, slots=True)
class RetryRequest:
    """What the command line of `retry` asks for."""

    location: str
    """A folder of dead letters, of a run, or of incremental runs."""
    errors: tuple[str, ...]
    """Only images that failed with one of these classes; none: all."""
    list_only: bool
    settings: tuple[Setting, ...]
    """In the order in which they count: the file's, those of --set, those of our flags."""
    beam_flags: tuple[str, ...]
    verbose: bool
    wait: bool
    print_config: bool


def parse_retry(arguments: Sequence[str]) -> RetryRequest:
    """Return what the arguments behind `retry` ask for.

    Raises:
        RequestError: a mistyped flag, one without its value, or one that a retry does not take.

    Example:
        >>> parse_retry(["--from=out/dead_letters", "--error=ImageNotFound"]).errors
        ('ImageNotFound',)
    """
    parser = CommandParser(
        prog=f"{PROGRAM} retry",
        usage=f"{PROGRAM} retry --from OUT/dead_letters [--error CLASS] [flags] [flags of Beam]",
        description="Embed what failed in a run, and nothing else.",
        epilog=_EPILOG.format(program=PROGRAM),
    )
    parser.add_argument(
        "--from",
        dest="location",
        metavar="FOLDER",
        help="The dead_letters of a run, the folder of the run, or that of incremental runs, of "
        "which the newest with dead letters is taken; local or gs://.",
    )
    parser.add_argument(
        "--error",
        metavar="CLASS",
        action="append",
        default=[],
        help="Only images that failed with this class, such as ImageUnreachable; repeat it for "
        "more.",
    )
    parser.add_switch("--list", "Print the classes, how many images of each, and an example.")
    parser.add_job_flags(*_NOT_TAKEN)
    parser.add_run_switches()
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag in _NOT_TAKEN:
            raise RequestError(f"{flag} is not for retry; {_why_not(flag)}")
    parsed, beam_flags = parser.parse_with_beam_flags(
        arguments, "name the folder of the dead letters with --from"
    )
    # Only now, so that a mistyped --from is called that.
    if not parsed.location:
        problem = "missing" if parsed.location is None else "empty"
        raise RequestError(f"--from is {problem}; see {PROGRAM} retry --help")
    settings = given_settings(parsed)
    for setting in settings:
        if setting.origin != "--set":
            continue
        if setting.path in INPUT_KEYS:
            raise RequestError(f"--set {setting.path} is not for retry; {_why_not('--input')}")
        if setting.path == "output.prune" and setting.value is not False:
            raise RequestError(f"--set {setting.path} is not for retry; {_why_not('--prune')}")
    return RetryRequest(
        location=parsed.location,
        errors=tuple(dict.fromkeys(parsed.error)),
        list_only=switch("--list", parsed.list),
        settings=tuple(settings),
        beam_flags=beam_flags,
        verbose=switch("--verbose", parsed.verbose),
        wait=not switch("--no-wait", parsed.no_wait),
        print_config=switch("--print-config", parsed.print_config),
    )


def _why_not(flag: str) -> str:
    if flag == "--prune":
        return (
            "it looks at the images that failed only, so it cannot tell what is gone; prune with "
            f"{PROGRAM} run"
        )
    return f"its images are the dead letters of --from; for others there is {PROGRAM} run"
