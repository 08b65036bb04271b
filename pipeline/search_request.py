"""What the command line of `search` asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.flags import PROGRAM, CommandParser, switch
from transforms.errors import RequestError

DEFAULT_COUNT = 10

#: So many pictures of a contact sheet still make a page that a telephone opens.
LARGEST_COUNT = 1000

_EPILOG = """\
The image is embedded with the model and the preprocessing that run.json names (of a table: the
newest row of its _runs table), so that its vector can be compared. Where that model is not to be
had from here, name a copy of it with --model; its fingerprint has to be the same. Search only in
outputs that you trust: what they name is the model that is loaded.

An image that is itself among the rows comes first, with a cosine of 1.

A folder is searched exactly. A table is searched with VECTOR_SEARCH, which is exact, too, unless
the table has a vector index; docs/search.md has the statement that creates one.

examples:
  {program} search cat.jpg --in embeddings/
  {program} search https://example.org/cat.jpg --in gs://bucket/embeddings --count 20 \\
      --html neighbours.html
  {program} search cat.jpg --in bq://PROJECT.DATASET.TABLE --exact --json

exit status: 0 done, 1 it failed, 2 the request was wrong."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What the command line of `search` asks for."""

    image: str
    """A path, a URL or a URI such as gs://."""
    location: str
    """An output folder, or bq:// and a table."""
    count: int
    html: str | None
    """Where the contact sheet goes, a path or a URI such as gs://."""
    exact: bool
    """Compare every row of a table, whatever index it has."""
    model: str | None
    """A handle in place of the recorded one."""
    json_output: bool
    verbose: bool


def parse_search(arguments: Sequence[str]) -> SearchRequest:
    """Return what the arguments behind `search` ask for.

    Raises:
        RequestError: an unknown flag, a flag without its value, or a value out of its range.

    Example:
        >>> parse_search(["cat.jpg", "--in=embeddings", "--count=3"]).count
        3
    """
    parser = CommandParser(
        prog=f"{PROGRAM} search",
        usage=f"{PROGRAM} search IMAGE --in OUT [flags]",
        description="Find the embedded images that are most like an image.",
        epilog=_EPILOG.format(program=PROGRAM),
    )
    parser.add_argument("image", metavar="IMAGE", help="A path, a gs:// URI or an http(s) URL.")
    parser.add_argument(
        "--in",
        dest="location",
        metavar="OUT",
        required=True,
        help="The output of run: a folder, a gs:// prefix, or bq://PROJECT.DATASET.TABLE.",
    )
    parser.add_argument(
        "--count",
        metavar="N",
        default=str(DEFAULT_COUNT),
        help=f"How many neighbours, from 1 to {LARGEST_COUNT} (default: {DEFAULT_COUNT}).",
    )
    parser.add_argument(
        "--html", metavar="FILE", help="Also write a page with the pictures, for a browser."
    )
    parser.add_switch("--exact", "Compare every row of a table, also where it has an index.")
    parser.add_argument(
        "--model", metavar="HANDLE", help="In place of the recorded handle, such as a local copy."
    )
    parser.add_switch("--json", "Print JSON instead of a table.")
    parser.add_switch("--verbose", "Show what TensorFlow logs, too.")
    parsed = parser.parse_all(arguments)
    for flag, value in (
        ("IMAGE", parsed.image),
        ("--in", parsed.location),
        ("--html", parsed.html),
    ):
        if value == "":
            raise RequestError(f"{flag} is empty; see {PROGRAM} search --help")
    return SearchRequest(
        image=parsed.image,
        location=parsed.location,
        count=_count(parsed.count),
        html=parsed.html,
        exact=switch("--exact", parsed.exact),
        model=parsed.model,
        json_output=switch("--json", parsed.json),
        verbose=switch("--verbose", parsed.verbose),
    )


def _count(text: str) -> int:
    # Not isdecimal() alone: "²" and digits of other scripts.
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= LARGEST_COUNT:
        return int(text)
    raise RequestError(f"--count is {text!r}; use a whole number from 1 to {LARGEST_COUNT}")
