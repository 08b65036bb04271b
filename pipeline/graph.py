"""The whole job as one function.

ListImages -> SelectImages -> ReadImages -> DecodeImages -> EmbedImages -+-> Write... -+
     |                           |              |               |        |             |
     +---------------------------+--------------+---------------+--------+             |
                                 |                                                     |
                          WriteDeadLetters --------------------------------------------+
                                                                                       |
                                       FinishRun <- MergeRows <- CheckRun <------------+
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.pvalue import PCollection

from pipeline.config import JobConfig
from pipeline.destination import Destination
from pipeline.inputs import examples_of, files_of
from pipeline.options import decode_threads
from transforms.check_run import CheckRun, RunParts
from transforms.decode_images import DecodeImages
from transforms.embed_images import EmbedImages
from transforms.finish_run import AnnounceMerge, FinishRun
from transforms.folders.run_report import RunLimits
from transforms.formats.embedding_rows import RowStamp
from transforms.formats.embedding_table import Provenance
from transforms.group_identical import GroupIdentical
from transforms.ledgers.ledger import ledger_entry
from transforms.list_images import ListImages
from transforms.merge_ledger import MergeLedger, Snapshot
from transforms.merge_rows import MergeParts, MergeRows
from transforms.networks.batch_isolation import Answer
from transforms.query_images import QueryImages
from transforms.read_image_examples import ReadImageExamples
from transforms.read_images import ReadImages
from transforms.read_ledger import ReadLedger
from transforms.read_table_ledger import ReadTableLedger
from transforms.records import (
    CarriedColumn,
    Embedding,
    Failure,
    ImageRef,
    OutputLayout,
    Pixels,
    Preprocessing,
    RawImage,
)
from transforms.select_images import SelectImages, Selection
from transforms.sources.image_query import QueryRows
from transforms.storage.http_source import HttpSettings
from transforms.workers.breaker import BreakerSettings
from transforms.write_dead_letters import WriteDeadLetters
from transforms.write_manifest import WriteManifest
from transforms.write_parquet import WriteParquet
from transforms.write_table_rows import WriteTableRows
from transforms.write_tfrecords import WriteTFRecords


@dataclass(frozen=True)
class Job:
    """What a run was planned with: everything the graph needs but the pipeline."""

    config: JobConfig
    destination: Destination
    preprocessing: Preprocessing
    provenance: Provenance
    handler: ModelHandler[Pixels, Answer, Any]
    facts: Mapping[str, Any]
    """What run.json says of the run besides its outcome."""
    layout: OutputLayout
    columns: tuple[CarriedColumn, ...] = ()
    query_rows: tuple[QueryRows, ...] = ()
    """Of the tables and the query among the inputs."""

    @property
    def stamp(self) -> RowStamp:
        """What all rows of the run share."""
        return RowStamp(self.provenance, self.destination.run_id, self.layout, self.columns)

    @property
    def breaker(self) -> BreakerSettings:
        """When a worker gives up."""
        failures = self.config.failures
        return BreakerSettings(failures.breaker_images, max(0.5, failures.max_ratio))


def build_graph(pipeline: beam.Pipeline, job: Job) -> None:
    """Add the whole job to the pipeline."""
    config, destination = job.config, job.destination
    source = (
        _images_of_examples(pipeline, job)
        if examples_of(config.input)
        else _images_of_files(pipeline, job)
    )
    # From the references to the vectors everything is one fused stage, so that no pixel ever
    # crosses a shuffle; that takes the same resource hints on all of it (`workers.stage`).
    workers = config.workers
    decode_at_once = workers.decode_threads or decode_threads(pipeline.options)
    decoded = source.images | "DecodeImages" >> DecodeImages(
        job.preprocessing, config.input.max_pixels, job.breaker, decode_at_once
    ).with_resource_hints(**workers.hints("decode"))
    embedded = decoded.ok | "EmbedImages" >> EmbedImages(
        job.handler, job.breaker
    ).with_resource_hints(**workers.hints("embed"))
    failed = [*source.failed, decoded.failed, embedded.failed]
    waited_on = [*source.waited_on, *_write_files(embedded.ok, job)]

    nothing = pipeline | "Nothing" >> beam.Create([])
    refused = table_rows = nothing
    if destination.table is not None:
        rows = embedded.ok | "WriteTableRows" >> WriteTableRows(
            destination.table, job.stamp, destination.staging_folder
        )
        refused, table_rows = rows.failed, rows.loaded
        failed.append(refused)
    failures = failed | "MergeFailures" >> beam.Flatten()
    waited_on.append(
        failures | "WriteDeadLetters" >> WriteDeadLetters(destination.run_folder, job.columns)
    )

    gone = source.selection.gone if source.selection else nothing
    ledger_rows = nothing
    if source.selection is not None and destination.has_ledger:
        snapshot = _merge_ledger(embedded.ok, source.selection, job)
        ledger_rows = snapshot.rows
        waited_on.append(
            snapshot.entries | "WriteManifest" >> WriteManifest(destination.run_folder)
        )
    parts = RunParts(
        found=source.found,
        ignored=source.ignored or nothing,
        skipped=source.skipped or (nothing,),
        inferred=embedded.ok,
        refused=refused,
        failed=failures,
        gone=gone,
        ledger_rows=ledger_rows,
        table_rows=table_rows,
        waited_on=waited_on | "MergeWaitedOn" >> beam.Flatten(),
    )
    report = parts | "CheckRun" >> CheckRun(
        destination.run_folder,
        job.facts,
        RunLimits(config.failures.max_ratio, config.output.max_pruned_ratio),
        formats=destination.formats,
        has_manifest=destination.has_ledger,
        prune=config.output.prune,
        record=destination.record,
    )
    # Nothing may run behind these steps: a launcher may have gone home long ago.
    if destination.table is not None:
        report = report | "AnnounceMerge" >> AnnounceMerge(
            destination.run_folder, destination.record
        )
        report = MergeParts(report, gone) | "MergeRows" >> MergeRows(
            destination.table, job.stamp, destination.staging_folder, config.output.prune
        )
    _ = report | "FinishRun" >> FinishRun(destination.run_folder, destination.record)


class _Source(NamedTuple):
    """The images of the inputs, and all that is to be counted of them."""

    images: PCollection[RawImage]
    found: tuple[PCollection[Any], ...]
    failed: tuple[PCollection[Failure], ...]
    waited_on: tuple[PCollection[Any], ...]
    skipped: tuple[PCollection[Any], ...] = ()
    ignored: PCollection[str] | None = None
    selection: Selection | None = None


def _images_of_examples(pipeline: beam.Pipeline, job: Job) -> _Source:
    config = job.config.input
    examples = pipeline | "ReadImageExamples" >> ReadImageExamples(
        examples_of(config), job.columns, config.max_bytes, job.config.workers.hints("read")
    )
    return _Source(
        images=examples.ok,
        found=(examples.refs, examples.failed),
        failed=(examples.failed,),
        waited_on=(examples.complete,),
    )


def _images_of_files(pipeline: beam.Pipeline, job: Job) -> _Source:
    config, destination = job.config, job.destination
    queried = [
        pipeline | f"QueryImages{number or ''}" >> QueryImages(rows)
        for number, rows in enumerate(job.query_rows)
    ]
    # References are shuffled here, and are small; nothing is shuffled behind them.
    listing = (tuple(each.refs for each in queried) or pipeline) | "ListImages" >> ListImages(
        files_of(config.input),
        config.input.extensions,
        destination.folder,
        config.input.uri_column,
        job.columns,
        look_up_entries=destination.incremental,
    )
    unread = (listing.failed, *(each.failed for each in queried))
    selection = _select(pipeline, listing.refs, job) if destination.incremental else None
    todo = selection.todo if selection else listing.refs
    http = HttpSettings(config.input.http_timeout_seconds, config.input.allow_private_addresses)
    read = (
        todo
        | "GroupIdentical" >> GroupIdentical()
        | "ReadImages"
        >> ReadImages(config.input.max_bytes, job.breaker, http).with_resource_hints(
            **config.workers.hints("read")
        )
    )
    complete = [listing.complete, *(each.complete for each in queried)]
    if selection is not None:
        complete.append(selection.complete)
    return _Source(
        images=read.ok,
        found=(listing.refs, *unread),
        failed=(*unread, read.failed),
        waited_on=tuple(complete),
        skipped=(selection.skipped, read.unchanged) if selection else (),
        ignored=listing.ignored,
        selection=selection,
    )


def _select(pipeline: beam.Pipeline, refs: PCollection[ImageRef], job: Job) -> Selection:
    """Leave out what every output holds already."""
    destination = job.destination
    ledgers = []
    if destination.folder is not None:
        ledgers.append(
            pipeline | "ReadLedger" >> ReadLedger(destination.manifests, destination.known_runs)
        )
    if destination.table is not None:
        ledgers.append(
            pipeline | "ReadTableLedger" >> ReadTableLedger(destination.table, job.provenance)
        )
    selection: Selection = (refs, tuple(ledgers)) | "SelectImages" >> SelectImages(
        job.provenance,
        files_of(job.config.input),
        job.config.output.prune,
        job.config.input.extensions,
    )
    return selection


def _write_files(embeddings: PCollection[Embedding], job: Job) -> list[PCollection[Any]]:
    """Write the embeddings into the run folder; return what says that they are in place."""
    destination, shards = job.destination, job.config.output.shards
    written = []
    if "tfrecord" in destination.formats:
        written.append(
            embeddings
            | "WriteTFRecords"
            >> WriteTFRecords(
                destination.run_folder,
                job.provenance,
                shards,
                job.config.output.compression,
                job.layout,
                job.columns,
            )
        )
    if "parquet" in destination.formats:
        written.append(
            embeddings | "WriteParquet" >> WriteParquet(destination.run_folder, job.stamp, shards)
        )
    return written


def _merge_ledger(embeddings: PCollection[Embedding], selection: Selection, job: Job) -> Snapshot:
    """Put together what the outputs hold after this run."""
    made = embeddings | "LedgerEntries" >> beam.Map(
        ledger_entry, job.provenance, job.destination.run_id
    )
    snapshot: Snapshot = (
        selection.kept,
        selection.replaced,
        made,
    ) | "MergeLedger" >> MergeLedger()
    return snapshot
