"""What a reference costs on its way through the ledger, from a thousand of them to a million.

    python benchmarks/growth_of_selection.py

Made-up references and ledgers go through SelectImages, GroupIdentical and MergeLedger on the
local engine with the project's own options; no image is read and nothing is written. The time of
a reference must not grow with their number, and a million must stay under 2 GB. Each line is a
process of its own; its peak memory is that of the whole process, Beam and Python included.

- first: nothing is known, everything is to be done; one reference in ten has the MD5 of another.
- nightly: all but one in a hundred are in the ledger, one entry in a hundred is gone.
- local: as first, but local files, of which every size occurs about a hundred times. There are
  no such files: to hash them costs one system call each, as of files that were just deleted.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import apache_beam as beam

from pipeline.config import BeamConfig
from pipeline.options import beam_options, keep_local_engine_from_losing_data
from transforms.embedding_table import Provenance
from transforms.group_identical import GroupIdentical
from transforms.merge_ledger import MergeLedger
from transforms.records import ImageRef, LedgerEntry, Origin
from transforms.select_images import SelectImages

SCENARIOS = ("first", "nightly", "local")
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
PROVENANCE = Provenance("handle", "f" * 64, "p" * 16)
#: References are made where they are used, in pieces, as a listing makes them.
PIECE = 1_000


def reference(number: int, scenario: str) -> ImageRef:
    name = f"photographs/2026/{number % 97:02d}/IMG_{number:09d}.jpg"
    if scenario == "local":
        size = 50_000 + number % 10_000
        return ImageRef(f"/nowhere/{name}", size, 1.7e9 + number, Origin(f"{number:019d}-{size}"))
    same_as = number - 1 if number % 10 == 9 else number
    origin = Origin(f"{1_700_000_000_000_000 + number}")
    return ImageRef(f"gs://bucket/{name}", 50_000, 1.7e9 + number, origin, md5=f"{same_as:032x}")


def entry(number: int, scenario: str) -> LedgerEntry:
    ref = reference(number, scenario)
    return LedgerEntry(
        uri=ref.uri,
        generation=ref.origin.generation,
        sha256=f"{number:064x}",
        model_fingerprint=PROVENANCE.model_fingerprint,
        preprocess_fingerprint=PROVENANCE.preprocess_fingerprint,
        precision=PROVENANCE.precision,
        run_id="20261119T063000Z-0123abcd",
        embedded_at=1.7e9 + number / 1000,
    )


def references(start: int, scenario: str, count: int) -> Iterator[ImageRef]:
    for number in range(start, min(start + PIECE, count)):
        if scenario != "nightly" or number % 100 != 1:
            yield reference(number, scenario)


def entries(start: int, scenario: str, count: int) -> Iterator[LedgerEntry]:
    for number in range(start, min(start + PIECE, count)):
        if scenario == "nightly" and number % 100 != 0:
            yield entry(number, scenario)


def count_of(pcollection: beam.PCollection, name: str, into: str) -> None:
    _ = (
        pcollection
        | f"Count{name}" >> beam.combiners.Count.Globally()
        | f"Tell{name}" >> beam.Map(lambda count: print(f"#{into} {count}", flush=True))
    )


def run_once(scenario: str, count: int) -> None:
    """Run one pipeline in this process; print its seconds and peak memory as JSON."""
    keep_local_engine_from_losing_data()
    started = time.monotonic()
    with beam.Pipeline(options=beam_options(BeamConfig(), [])) as pipeline:
        pieces = range(0, count, PIECE)
        refs = (
            pipeline
            | "RefPieces" >> beam.Create(pieces)
            | "SpreadRefPieces" >> beam.Reshuffle()
            | "MakeRefs" >> beam.FlatMap(references, scenario, count)
        )
        ledger = (
            pipeline
            | "EntryPieces" >> beam.Create(pieces)
            | "SpreadEntryPieces" >> beam.Reshuffle()
            | "MakeEntries" >> beam.FlatMap(entries, scenario, count)
        )
        locations = ("gs://bucket/photographs", "/nowhere")
        selection = (refs, (ledger,)) | "SelectImages" >> SelectImages(PROVENANCE, locations)
        todo = selection.todo | "GroupIdentical" >> GroupIdentical()
        snapshot = (
            selection.kept,
            selection.replaced,
            pipeline | "NothingNew" >> beam.Create([]),
        ) | "MergeLedger" >> MergeLedger()
        count_of(todo | beam.FlatMap(lambda ref: (ref, *ref.twins)), "Todo", "todo")
        count_of(selection.skipped, "Skipped", "skipped")
        count_of(selection.gone, "Gone", "gone")
        count_of(snapshot, "Snapshot", "snapshot")
    seconds = time.monotonic() - started
    # Kibibytes on Linux, bytes on macOS.
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(json.dumps({"seconds": seconds, "peak_bytes": peak}))


def measure(scenario: str, count: int) -> dict[str, float]:
    """Run one pipeline in a process of its own; return what it printed."""
    command = [sys.executable, __file__, "--one", scenario, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    *told, last = done.stdout.splitlines()
    counts = {name: int(number) for name, number in (line[1:].split() for line in told)}
    if counts != expected_counts(scenario, count):
        raise SystemExit(f"out of {count:,} came {counts}, not {expected_counts(scenario, count)}")
    return json.loads(last) | counts


def expected_counts(scenario: str, count: int) -> dict[str, int]:
    if scenario != "nightly":
        return {"todo": count, "skipped": 0, "gone": 0, "snapshot": 0}
    new, gone = len(range(0, count, 100)), len(range(1, count, 100))
    return {"todo": new, "skipped": count - new - gone, "gone": gone, "snapshot": count - new}


def main() -> None:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--counts", type=int, nargs="+", default=COUNTS, help="how many references, in turn"
    )
    parser.add_argument(
        "--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS, help="which of the below"
    )
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_once(arguments.one[0], int(arguments.one[1]))
        return
    print(f"{'':8} {'references':>11} {'seconds':>8} {'us/ref':>7} {'peak MB':>8}")
    for scenario in arguments.scenarios:
        # An empty pipeline costs what starting and stopping it costs; it is not a reference's.
        start_up = min(measure(scenario, 0)["seconds"] for _ in range(2))
        for count in arguments.counts:
            result = measure(scenario, count)
            each = (result["seconds"] - start_up) / count * 1e6
            print(
                f"{scenario:8} {count:11,} {result['seconds']:8.1f} {each:7.0f} "
                f"{result['peak_bytes'] / 1e6:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
