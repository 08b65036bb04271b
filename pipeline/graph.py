"""The whole job as one function.

ListImages -> ReadImages -> DecodeImages -> EmbedImages -> WriteTFRecords -+-> FinishRun
                  |              |               |                         |
                  +--------------+---------------+-> WriteDeadLetters -----+
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler

from pipeline.config import JobConfig
from transforms.batch_isolation import Answer
from transforms.breaker import BreakerSettings
from transforms.decode_images import DecodeImages
from transforms.embed_images import EmbedImages
from transforms.embedding_table import Provenance
from transforms.finish_run import FinishRun, RunParts
from transforms.http_source import HttpSettings
from transforms.list_images import ListImages
from transforms.read_images import ReadImages
from transforms.records import OutputLayout, Pixels, Preprocessing
from transforms.write_dead_letters import WriteDeadLetters
from transforms.write_tfrecords import WriteTFRecords


@dataclass(frozen=True)
class Job:
    """What a run was planned with: everything the graph needs but the pipeline."""

    config: JobConfig
    preprocessing: Preprocessing
    provenance: Provenance
    handler: ModelHandler[Pixels, Answer, Any]
    facts: Mapping[str, Any]
    """What run.json says of the run besides its outcome."""
    layout: OutputLayout


def build_graph(pipeline: beam.Pipeline, job: Job) -> None:
    """Add the whole job to the pipeline."""
    config = job.config
    folder = config.output.path
    breaker = BreakerSettings(config.failures.breaker_images, max(0.5, config.failures.max_ratio))

    # References are shuffled here, once; from here to the vectors everything is one fused stage,
    # so that no pixel ever crosses a shuffle.
    listing = pipeline | "ListImages" >> ListImages(
        config.input.patterns, config.input.extensions, folder
    )
    http = HttpSettings(config.input.http_timeout_seconds, config.input.allow_private_addresses)
    read = listing.refs | "ReadImages" >> ReadImages(config.input.max_bytes, breaker, http)
    decoded = read.ok | "DecodeImages" >> DecodeImages(
        job.preprocessing, config.input.max_pixels, breaker
    )
    embedded = decoded.ok | "EmbedImages" >> EmbedImages(job.handler, breaker)

    embedding_files = embedded.ok | "WriteTFRecords" >> WriteTFRecords(
        folder, job.provenance, config.output.shards, config.output.compression, job.layout
    )
    failures = (
        read.failed,
        decoded.failed,
        embedded.failed,
    ) | "MergeFailures" >> beam.Flatten()
    dead_letter_files = failures | "WriteDeadLetters" >> WriteDeadLetters(folder)

    # Nothing may run behind this step: a launcher may have gone home long ago.
    waited_on = (
        embedding_files,
        dead_letter_files,
        listing.complete,
    ) | "MergeWaitedOn" >> beam.Flatten()
    parts = RunParts(listing.refs, listing.ignored, embedded.ok, failures, waited_on)
    _ = parts | "FinishRun" >> FinishRun(folder, job.facts, config.failures.max_ratio)
