"""How fast the job is, beside the machine's limit and beside others: tables, and JSON.

    make bench
    python benchmarks/bench.py --quick --only limit ours
    python benchmarks/bench.py --markdown benchmarks/results/RESULTS.json

All contenders of a table are measured in one run and by turns; a figure is the median of the
rounds with its range, and a ratio is that of the same round. docs/performance.md says what each
row means. Every contender computes in the precision that its row names. A figure above the
measured matrix peak is thrown out, and a line says so.
"""

import argparse
import datetime
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from contenders import LeftOut
from contests import QUICK, Sizes
from machine import describe_machine
from measuring import Section
from rendering import markdown
from sections import (
    NETWORK_SECTIONS,
    SECTIONS,
    Plan,
    measure_decoding,
    measure_growth,
    measure_networks,
    measure_stages,
)

RESULTS = Path(__file__).with_name("results")


def main() -> int:
    arguments = _parse()
    if arguments.markdown is not None:
        print(markdown(json.loads(arguments.markdown.read_text())), end="")
        return 0
    sizes = QUICK if arguments.quick else Sizes()
    if arguments.rounds is not None:
        sizes = replace(sizes, rounds=arguments.rounds)
    started = datetime.datetime.now(datetime.UTC)
    results: dict[str, Any] = {
        "started_at": started.isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
        "quick": arguments.quick,
        "machine": describe_machine(),
        "sizes": asdict(sizes),
        "sections": [],
    }
    output = arguments.output or RESULTS / f"{started:%Y%m%dT%H%M%SZ}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as workplace:
        plan = Plan(sizes, Path(workplace), arguments.photographs, arguments.mobilenet, _say)
        for section in _measured(plan, arguments.only):
            results["sections"].append(asdict(section))
            # After each section, so that a run that is broken off leaves what it has.
            output.write_text(json.dumps(results, indent=1))
    print(markdown(results))
    _say(f"the results are in {output}")
    return 0


def _measured(plan: Plan, wanted: Sequence[str]) -> Iterator[Section]:
    networks = [name for name in NETWORK_SECTIONS if name in wanted]
    if networks:
        yield from measure_networks(plan, networks)
    for name, measure in (
        ("stages", measure_stages),
        ("decode", measure_decoding),
        ("growth", measure_growth),
    ):
        if name in wanted:
            yield measure(plan)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="little of everything, to try it out")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=SECTIONS,
        metavar="SECTION",
        help=f"some of {', '.join(SECTIONS)}; ratios need both of their contenders",
    )
    parser.add_argument("--rounds", type=int, help="how often each contender is measured")
    parser.add_argument(
        "--photographs", type=Path, help="a folder of ordinary JPEGs, in place of those made"
    )
    parser.add_argument(
        "--mobilenet", help="a trained model, for the cosine between scaled and full decoding"
    )
    parser.add_argument("--output", type=Path, help="where the JSON goes (default: results/)")
    parser.add_argument(
        "--markdown", type=Path, metavar="JSON", help="measure nothing, print these results"
    )
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}; use 1 or more")
    return arguments


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LeftOut as error:
        sys.exit(f"error: {error}")
