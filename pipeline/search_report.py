"""What a search has found, as a table for people and as JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transforms.formats.embedding_table import Provenance
from transforms.models.untrained_model import UNTRAINED_NOTE
from transforms.records import CarriedValue


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One row that was found."""

    cosine: float
    """To the image that was searched for, from -1 to 1."""
    uri: str
    sha256: str
    """Of the file that was embedded."""
    format: str
    height: int
    width: int
    carried: Mapping[str, CarriedValue]
    """The columns of the input that went along, by name."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search has found, and how."""

    image: str
    location: str
    provenance: Provenance
    untrained: bool
    exact: bool
    """Whether every row was compared."""
    neighbours: Sequence[Neighbour]
    """The nearest first."""


def printable(text: str) -> str:
    r"""Return the text with escapes for what a terminal or a browser would not show as it is.

    The names of files come from anybody: one may hold the codes that clear a screen, or that
    turn the direction of the text around.

    Example:
        >>> print(printable("a\x1b[2J\u202e.jpg"))
        a\x1b[2J\u202e.jpg
    """
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def judge(result: SearchResult) -> str:
    """Return in a few words by what the neighbours were told."""
    note = UNTRAINED_NOTE if result.untrained else ""
    return f"by cosine, according to {printable(result.provenance.model_handle)}{note}"


def carried_text(value: CarriedValue) -> str:
    """Return a carried value as one short text; nothing for null."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else printable(str(value))


def format_table(result: SearchResult) -> str:
    """Return a heading, and a table below it: rank, cosine, URI, carried columns."""
    names = list(dict.fromkeys(name for each in result.neighbours for name in each.carried))
    rows = [["rank", "cosine", "uri", *map(printable, names)]]
    for rank, each in enumerate(result.neighbours, start=1):
        carried = [carried_text(each.carried.get(name)) for name in names]
        rows.append([str(rank), f"{each.cosine:.3f}", printable(each.uri), *carried])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{row[0]:>{widths[0]}}  {row[1]:>{widths[1]}}  "
        + "  ".join(f"{cell:{width}}" for cell, width in zip(row[2:], widths[2:], strict=True))
        for row in rows
    ]
    heading = f"Nearest to {printable(result.image)} {judge(result)}"
    return "\n".join([heading, "", *(line.rstrip() for line in lines)])


def format_json(result: SearchResult) -> str:
    """Return all of it as one JSON object.

    {"image", "in", "model": {"handle", "fingerprint", "precision", "untrained"},
    "preprocess_fingerprint", "exact", "neighbours": [{"rank", "cosine", "uri", "sha256",
    "format", "height", "width", "carried": {...}}, ...]}
    """
    made_by = result.provenance
    document: dict[str, Any] = {
        "image": result.image,
        "in": result.location,
        "model": {
            "handle": made_by.model_handle,
            "fingerprint": made_by.model_fingerprint,
            "precision": made_by.precision,
            "untrained": result.untrained,
        },
        "preprocess_fingerprint": made_by.preprocess_fingerprint,
        "exact": result.exact,
        "neighbours": [
            {
                "rank": rank,
                "cosine": each.cosine,
                "uri": each.uri,
                "sha256": each.sha256,
                "format": each.format,
                "height": each.height,
                "width": each.width,
                "carried": dict(each.carried),
            }
            for rank, each in enumerate(result.neighbours, start=1)
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)
