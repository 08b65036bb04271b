"""The results as tables, of Markdown; they can be read on a console just as well."""

from collections.abc import Mapping, Sequence
from typing import Any

from measuring import Ratio, Rounds, Section, section_from_json, spread

TITLES = {
    "limit": "The limit: the bare network, and the matrix peak behind it",
    "peers": "The peers: from files to vectors",
    "ours": "Ours: `embed-images run`, and how it stands to the others",
    "stages": "Each stage alone",
    "decode": "Reading and decoding, without a network",
    "growth": "Growth: what an image costs besides its pixels",
}


def markdown(results: Mapping[str, Any]) -> str:
    """Return all tables of the results of a run, with what they were measured on."""
    parts = [_heading(results)]
    parts += [_section(section_from_json(section)) for section in results["sections"]]
    return "\n\n".join(parts) + "\n"


def _heading(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return "\n".join(
        [
            f"Measured on {results['started_at'][:10]} with `{results['command']}`, on "
            f"{machine['cores']} cores of {machine['processor']}"
            f" ({', '.join(machine['instructions']) or 'none of the instructions that matter'}), "
            f"{machine['memory_gib']:.0f} GiB, load average {machine['load']:.1f} at the start.",
            f"{versions}.",
        ]
    )


def _section(section: Section) -> str:
    blocks = [f"### {TITLES.get(section.name, section.name)}"]
    if section.figures:
        rows = [
            (figure.contender, figure.measure, _shown(figure.rounds), figure.note)
            for figure in section.figures
        ]
        blocks.append(_table(("", "measure", "median (lowest to highest)", ""), rows))
    if section.ratios:
        ratios = [
            (ratio.name, _shown(ratio.rounds), _wanted(ratio), _verdict(ratio))
            for ratio in section.ratios
        ]
        header = ("round by round", "median (lowest to highest)", "target", "")
        blocks.append(_table(header, ratios))
    if section.notes:
        blocks.append("\n".join(f"- {note}" for note in section.notes))
    return "\n\n".join(blocks)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line(header), rule, *map(line, rows)])


def _shown(rounds: Rounds) -> str:
    found = spread(rounds)
    if found is None:
        return "none"
    if len(rounds) == 1:
        return _number(found.median)
    return f"{_number(found.median)} ({_number(found.lowest)} to {_number(found.highest)})"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if 0.99 < value < 1 else f"{value:.3g}"


def _wanted(ratio: Ratio) -> str:
    bounds = ((ratio.at_least, "at least"), (ratio.at_most, "at most"))
    return " and ".join(f"{words} {bound:g}" for bound, words in bounds if bound is not None)


def _verdict(ratio: Ratio) -> str:
    return {True: "holds", False: "**missed**", None: ""}[ratio.holds]
