"""What the doctor found, as a table for people and as JSON for programs."""

import json
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import get_args

from transforms.networks.model_checks import Finding, Verdict

#: Narrower, and the table would be a column of single words.
_LEAST_WIDTH = 60


def exit_status(findings: Sequence[Finding]) -> int:
    """Return 1 where a check failed, else 0: what is only suspect stops nothing."""
    return int(any(finding.verdict == "failed" for finding in findings))


def verdict_line(findings: Sequence[Finding]) -> str:
    """Return all findings in one line.

    Example:
        >>> verdict_line([Finding("finite", "ok", "no NaN"), Finding("gpu", "skipped", "no GPU")])
        'all well: 1 ok, 1 skipped'
    """
    counts = Counter(finding.verdict for finding in findings)
    numbers = ", ".join(f"{counts[each]} {each}" for each in get_args(Verdict) if counts[each])
    if counts["failed"]:
        return f"something is wrong: {numbers}"
    if counts["suspect"]:
        return f"look at what is suspect: {numbers}"
    return f"all well: {numbers}"


def format_json(findings: Sequence[Finding]) -> str:
    """Return the findings, the verdict and the exit status as one JSON object.

    {"verdict": "...", "exit_status": 0, "checks": [{"check", "verdict", "seen", "advice"}, ...]}
    """
    document = {
        "verdict": verdict_line(findings),
        "exit_status": exit_status(findings),
        "checks": [asdict(finding) for finding in findings],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def format_table(findings: Sequence[Finding], width: int | None = None) -> str:
    """Return a table of the findings and the verdict below it.

    Args:
        findings: in the order of the rows.
        width: of the table, in characters; None: that of the terminal.
    """
    width = max(width or shutil.get_terminal_size().columns, _LEAST_WIDTH)
    first = max(len(name) for name in ("check", *(finding.check for finding in findings)))
    second = max(len(name) for name in get_args(Verdict))
    indent = first + second + 4
    lines = [f"{'check':{first}}  {'verdict':{second}}  what was seen, and -> what to do"]
    lines.append(f"{'-' * first}  {'-' * second}  {'-' * (width - indent)}")
    for finding in findings:
        text = textwrap.wrap(finding.seen, width - indent)
        if finding.advice:
            text += textwrap.wrap(f"-> {finding.advice}", width - indent, subsequent_indent=" " * 3)
        start = f"{finding.check:{first}}  {finding.verdict:{second}}  "
        lines += [
            f"{start if not place else ' ' * indent}{part}" for place, part in enumerate(text)
        ]
    return "\n".join([*lines, "", verdict_line(findings)])
