"""What an image costs besides reading, decoding and the network: time and peak memory of a job.

    python benchmarks/growth.py

The whole graph of the job runs on the local engine with the project's own options, over local
folders of made-up files, with a model that costs nothing. The time of an image must not grow with
their number, and a million that are listed and skipped must stay under 2 GB. Each line is a
process of its own; its peak memory is that of the whole process, Beam and Python included. The
time to start and stop a job, which is that of one of ten images, is taken off the time of each.
The processor's time tells more than the clock's where the machine has other work.

- plain: a plain run over tiny images, which are all read, decoded and written.
- first: the same as the first incremental run.
- nightly: an incremental run: all images but one in a hundred are in the ledger, and one entry
  of the ledger in a hundred is gone. The images that are skipped are empty files.
- list: a plain run over an @list of URIs, of which every one leads nowhere and fails.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
from apache_beam.ml.inference.base import ModelHandler

from pipeline.config import BeamConfig, FailuresConfig, InputConfig, JobConfig, OutputConfig
from pipeline.destination import Destination, destination_facts, prepare_destination
from pipeline.graph import Job, build_graph
from pipeline.options import beam_options, keep_local_engine_from_losing_data
from transforms.folders.output_folder import run_folder
from transforms.formats.embedding_table import Provenance
from transforms.ledgers.ledger import MANIFEST_SCHEMA, entries_to_arrow
from transforms.networks.batch_isolation import Answer, EmbeddedPixels
from transforms.records import LedgerEntry, OutputLayout, Pixels, Preprocessing
from transforms.storage.file_listing import list_files

COUNTS = {
    "plain": (1_000, 10_000, 100_000),
    "first": (1_000, 10_000, 100_000),
    "nightly": (1_000, 10_000, 100_000, 1_000_000),
    "list": (1_000, 10_000, 100_000),
}
START_UP_COUNT = 10
CONTRACT = Preprocessing(height=2, width=2)
PROVENANCE = Provenance("handle", "f" * 64, CONTRACT.fingerprint())
LAYOUT = OutputLayout(embedding_width=3)
EARLIER_RUN = "20261119T063000Z-0123abcd"
THIS_RUN = "20261120T063000Z-0123abcd"
FILES_PER_FOLDER = 1_000
ROWS_PER_GROUP = 50_000


class MeanColour(ModelHandler[Pixels, Answer, None]):
    """A model that costs nothing."""

    def load_model(self) -> None:
        return None

    def run_inference(
        self, batch: Sequence[Pixels], model: None, inference_args: object = None
    ) -> list[Answer]:
        return [EmbeddedPixels(pixels.mean(axis=(0, 1), dtype=np.float32), 1.0) for pixels in batch]


def is_new(number: int, scenario: str) -> bool:
    return scenario != "nightly" or number % 100 == 0


def is_gone(number: int, scenario: str) -> bool:
    return scenario == "nightly" and number % 100 == 1


def bitmap(number: int) -> bytes:
    """Return a BMP file of 2 x 2 pixels, another one for each number."""
    header = struct.pack("<2sIII", b"BM", 70, 0, 54)
    header += struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 24, 0, 16, 2835, 2835, 0, 0)
    return header + number.to_bytes(8, "little") * 2


def make_inputs(folder: str, scenario: str, count: int) -> str:
    """Make what the job is to read; return how the job names it."""
    if scenario == "list":
        path = os.path.join(folder, "list.txt")
        with open(path, "w") as file:
            file.writelines(f"/nowhere/2026/IMG_{number:09d}.jpg\n" for number in range(count))
        return f"@{path}"
    photographs = os.path.join(folder, "photographs")
    for start in range(0, count, FILES_PER_FOLDER):
        album = os.path.join(photographs, f"2026-{start // FILES_PER_FOLDER:06d}")
        os.makedirs(album)
        for number in range(start, min(start + FILES_PER_FOLDER, count)):
            if not is_gone(number, scenario):
                with open(os.path.join(album, f"IMG_{number:09d}.bmp"), "wb") as file:
                    if is_new(number, scenario):
                        file.write(bitmap(number))
    return photographs


def make_manifest(path: str, photographs: str, count: int) -> None:
    """Write the ledger: of the empty files, and of those that are gone."""
    with pq.ParquetWriter(path, MANIFEST_SCHEMA, compression="zstd") as writer:
        waiting: list[LedgerEntry] = []
        for entry in entries(photographs, count):
            waiting.append(entry)
            if len(waiting) == ROWS_PER_GROUP:
                writer.write_table(entries_to_arrow(waiting))
                waiting.clear()
        writer.write_table(entries_to_arrow(waiting))


def entries(photographs: str, count: int) -> Iterator[LedgerEntry]:
    for file in list_files(photographs):
        if file.ref.size_bytes == 0:
            yield entry(file.ref.uri, file.ref.origin.generation)
    for number in range(count):
        if is_gone(number, "nightly"):
            yield entry(f"{photographs}/gone/IMG_{number:09d}.bmp", f"{number:019d}-0")


def entry(uri: str, generation: str | None) -> LedgerEntry:
    return LedgerEntry(
        uri=uri,
        generation=generation,
        # Such as no two images have, and as cannot be compressed.
        sha256=f"{hash(uri) % 2**64:016x}" * 4,
        model_fingerprint=PROVENANCE.model_fingerprint,
        preprocess_fingerprint=PROVENANCE.preprocess_fingerprint,
        precision=PROVENANCE.precision,
        run_id=EARLIER_RUN,
        embedded_at=1.7e9 + hash(uri) % 10**6 / 1000,
    )


def run_once(scenario: str, inputs: str, output: str, manifest: str) -> None:
    """Run one job in this process; print its seconds, peak memory and counts as JSON."""
    incremental = scenario in ("first", "nightly")
    config = JobConfig(
        input=InputConfig(patterns=(inputs,)),
        output=OutputConfig(path=output, incremental=incremental),
        failures=FailuresConfig(max_ratio=1.0, breaker_images=10**9),
    )
    destination = Destination(
        run_id=THIS_RUN,
        started_at=datetime.datetime.now(datetime.UTC),
        folder=output,
        run_folder=run_folder(output, THIS_RUN) if incremental else output,
        incremental=incremental,
        parents=(EARLIER_RUN,) if manifest else (),
        manifests=(manifest,) if manifest else (),
        known_runs=frozenset([EARLIER_RUN]) if manifest else frozenset(),
    )
    job = Job(
        config=config,
        destination=destination,
        preprocessing=CONTRACT,
        provenance=PROVENANCE,
        handler=MeanColour(),
        facts=destination_facts(destination),
        layout=LAYOUT,
    )
    prepare_destination(destination, config.output, LAYOUT, (), PROVENANCE)
    keep_local_engine_from_losing_data()
    started, cpu_started = time.monotonic(), time.process_time()
    with beam.Pipeline(options=beam_options(BeamConfig(), [])) as pipeline:
        build_graph(pipeline, job)
    seconds = time.monotonic() - started
    # Kibibytes on Linux, bytes on macOS.
    unit = 1 if platform.system() == "Darwin" else 1024
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu_started,
        "peak_bytes": usage.ru_maxrss * unit,
    }
    with open(os.path.join(destination.run_folder, "run.json")) as file:
        counts = json.load(file)["counts"]
    print(json.dumps(result | {"counts": counts}))


def measure(scenario: str, count: int) -> dict[str, float]:
    """Run one job in a process of its own; return what it printed."""
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        inputs = make_inputs(folder, scenario, count)
        manifest = ""
        if scenario == "nightly":
            manifest = os.path.join(folder, "manifest.parquet")
            make_manifest(manifest, inputs, count)
        arguments = [scenario, inputs, os.path.join(folder, "output"), manifest]
        done = subprocess.run(
            [sys.executable, __file__, "--one", *arguments],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    result = json.loads(done.stdout.splitlines()[-1])
    expected = expected_counts(scenario, count)
    counts = {name: result["counts"][name] for name in expected}
    if counts != expected:
        raise SystemExit(f"out of {count:,} came {counts}, not {expected}")
    return result


def expected_counts(scenario: str, count: int) -> dict[str, int]:
    new = sum(is_new(number, scenario) for number in range(count))
    gone = sum(is_gone(number, scenario) for number in range(count))
    failed = count if scenario == "list" else 0
    return {
        "found": count - gone,
        "skipped": count - new - gone,
        "embedded": new - failed,
        "failed": failed,
        "gone": gone,
    }


def main() -> None:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--counts", type=int, nargs="+", help="how many images, in turn")
    parser.add_argument(
        "--scenarios", nargs="+", choices=COUNTS, default=list(COUNTS), help="which of the below"
    )
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_once(*arguments.one)
        return
    print(f"{'':8} {'images':>10} {'seconds':>8} {'us/image':>9} {'CPU us':>7} {'peak MB':>8}")
    for scenario in arguments.scenarios:
        start_ups = [measure(scenario, START_UP_COUNT) for _ in range(2)]
        for count in arguments.counts or COUNTS[scenario]:
            result = measure(scenario, count)
            each, cpu_each = (
                (result[clock] - min(start_up[clock] for start_up in start_ups))
                / (count - START_UP_COUNT)
                * 1e6
                for clock in ("seconds", "cpu_seconds")
            )
            print(
                f"{scenario:8} {count:10,} {result['seconds']:8.1f} {each:9.0f} {cpu_each:7.0f} "
                f"{result['peak_bytes'] / 1e6:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
