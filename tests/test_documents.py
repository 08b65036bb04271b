"""What the documents name is there: pages, headings, commands and their flags."""

import re
import shlex
from pathlib import Path

import pytest

from pipeline.command_line import RunRequest, parse_command_line
from pipeline.config import BeamConfig
from pipeline.options import beam_options
from transforms.errors import RequestError

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"^```.*?^```", re.M | re.S)
_COMMAND = r"embed-images (?:run|retry|search|plan|doctor|stage-model)\b"


def headings(page):
    """The anchors of a page, as GitHub makes them of its headings."""
    text = _BLOCK.sub("", page.read_text())
    plain = (
        re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", each)
        for each in re.findall(r"^#+ (.+)$", text, re.M)
    )
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in plain}


def commands(page):
    """Every command of ours that a page shows, in a block or in a line, as one line."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    for block in _BLOCK.findall(text):
        for line in block.splitlines():
            if match := re.search(rf"(?<![\w:-] ){_COMMAND}.*", line):
                yield re.split(r" (?:>>|\||\|\||&&|#) ?", match[0])[0]
    for inline in re.findall(rf"`({_COMMAND}[^`]*)`", _BLOCK.sub("", text)):
        yield " ".join(inline.split())


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings_that_are_there(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("", page.read_text())):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert not anchor or anchor in headings(target), link


def refusal_of(command):
    """What is wrong with a command, or nothing."""
    words = [word for word in shlex.split(command)[1:] if word != "--help"]
    if "--config" in words:  # Of a file that the reader has.
        place = words.index("--config")
        del words[place : place + 2]
    try:
        request = parse_command_line(words)
        if isinstance(request, RunRequest):
            beam_options(BeamConfig(), request.beam_flags)
    except RequestError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_commands_have_flags_that_are_there(page):
    for command in commands(page):
        # Some of what a flag needs stands in another sentence, or in a file.
        assert "unknown flag" not in refusal_of(command), command


def test_there_are_commands_to_look_at():
    assert sum(len(list(commands(page))) for page in DOCUMENTS) > 30
