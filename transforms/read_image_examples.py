"""`ReadImageExamples`: from TFRecords of tf.Examples to the images in them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from transforms.records import DEFAULT_MAX_BYTES, CarriedColumn, Failure, ImageRef, RawImage
from transforms.sources.image_examples import (
    BadExample,
    ExampleRef,
    example_files,
    find_examples,
    one_of_each,
    read_examples,
)
from transforms.step_parts.attempt_each import FAILED, make_failure
from transforms.step_parts.count_all import require_all_handed_on
from transforms.workers.tally import PROCESS_TALLY

_STAGE = "ReadImageExamples"
_FOUND = "found"
_DONE = "done"


class ExampleImages(NamedTuple):
    """What `ReadImageExamples` returns. What it found is `refs` and `failed` together."""

    ok: beam.PCollection[RawImage]
    refs: beam.PCollection[ImageRef]
    """One for each image of `ok`, but sooner."""
    failed: beam.PCollection[Failure]
    """One for each record without an image, or with one that is too large or badly named."""
    complete: beam.PCollection[bool]
    """One True, once it is certain that the shuffles have handed on every reference."""


@dataclass(eq=False)
class ReadImageExamples(beam.PTransform):
    """Read the images of `tfrecord:` inputs, each URI once, as `sources.image_examples` says.

    Starts a pipeline: it takes the pipeline itself. The files are read twice: first for the
    names, and then, spread over the workers in stretches of 32 MiB, for the images, so that no
    image crosses a shuffle. A file whose name ends in .gz is read by one worker.

    Of records with the same name and the same bytes the first is taken, and the others are
    counted as duplicates-dropped. Those with other bytes are failures.

    Raises (in the worker, which fails the job):
        UnreadableInput: a file is damaged, no TFRecord file, or has changed between the reads.
        IncompleteRun: the runner has lost a reference.

    Example:
        >>> images = pipeline | ReadImageExamples(("tfrecord:shards-*",))  # doctest: +SKIP
    """

    inputs: tuple[str, ...]
    columns: tuple[CarriedColumn, ...] = ()
    """What is carried along, from the features of these names."""
    max_bytes: int = DEFAULT_MAX_BYTES
    """Of one encoded image."""
    reading_hints: Mapping[str, str] = field(default_factory=dict)
    """Beam's resource hints for the step that reads the images, and for no other."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("inputs is empty; name at least one tfrecord: path or pattern")

    @no_annotations  # Beam takes a NamedTuple of PCollections for no valid output, and warns.
    def expand(self, pipeline: beam.Pipeline) -> ExampleImages:
        """Return the images, and what became of the other records."""
        files = (
            pipeline
            | "Inputs" >> beam.Create(self.inputs)
            | "ListFiles" >> beam.FlatMap(example_files)
            # Two patterns may name the same file.
            | "EachOnce" >> beam.Distinct()
        )
        found = (
            files
            | "SpreadFiles" >> beam.Reshuffle()
            | "Find"
            >> beam.ParDo(_FindFn(self.columns, self.max_bytes)).with_outputs(
                FAILED, _DONE, main=_FOUND
            )
        )
        groups = (
            found[_FOUND]
            | "KeyByUri" >> beam.Map(lambda example: (example.ref.uri, example))
            | "GroupByUri" >> beam.GroupByKey()
            | "Materialise" >> beam.MapTuple(lambda uri, examples: list(examples))
        )
        chosen = groups | "OneEach" >> beam.ParDo(_OneEachFn()).with_outputs(FAILED, main=_FOUND)
        images = (
            chosen[_FOUND]
            | "KeyByStretch" >> beam.Map(lambda example: (example.stretch, example))
            | "GroupByStretch" >> beam.GroupByKey()
            | "Read" >> beam.FlatMapTuple(_read).with_resource_hints(**self.reading_hints)
        )
        counts = [
            found[_FOUND] | "CountFound" >> beam.combiners.Count.Globally(),
            groups | "GroupSizes" >> beam.Map(len) | "SumSizes" >> beam.CombineGlobally(sum),
            found[_DONE] | "CountFilesRead" >> beam.combiners.Count.Globally(),
        ]
        # What is lost before an image is counted as found would be lost in silence.
        complete = (
            files
            | "CountFiles" >> beam.combiners.Count.Globally()
            | "CheckNothingLost" >> beam.Map(_check_nothing_lost, *map(AsSingleton, counts))
        )
        failed = (found[FAILED], chosen[FAILED]) | "MergeFailures" >> beam.Flatten()
        refs = chosen[_FOUND] | "Refs" >> beam.Map(attrgetter("ref"))
        return ExampleImages(images, refs, failed, complete)


class _FindFn(beam.DoFn):
    def __init__(self, columns: tuple[CarriedColumn, ...], max_bytes: int) -> None:
        self._columns = columns
        self._max_bytes = max_bytes

    def process(self, path: str) -> Iterator[Any]:
        for example in find_examples(path, self._columns, self._max_bytes):
            if isinstance(example, ExampleRef):
                yield example
            else:
                yield _failed(example)
        yield TaggedOutput(_DONE, path)


class _OneEachFn(beam.DoFn):
    def __init__(self) -> None:
        self._found = Metrics.counter(_STAGE, "images-found")
        self._dropped = Metrics.counter(_STAGE, "duplicates-dropped")

    def process(self, examples: list[ExampleRef]) -> Iterator[Any]:
        first, bad = one_of_each(examples)
        self._found.inc()
        PROCESS_TALLY.add("found")
        self._dropped.inc(len(examples) - 1 - len(bad))
        yield first
        for example in bad:
            yield _failed(example)


def _failed(example: BadExample) -> TaggedOutput:
    Metrics.counter(_STAGE, "images-found").inc()
    Metrics.counter(_STAGE, f"failed-{type(example.error).__name__}").inc()
    PROCESS_TALLY.add("found")
    PROCESS_TALLY.add("failed")
    return TaggedOutput(FAILED, make_failure(example.uri, _STAGE, example.error))


def _read(_: tuple[str, int], examples: Iterable[ExampleRef]) -> Iterator[RawImage]:
    read = Metrics.counter(_STAGE, "images-read")
    for image in read_examples(list(examples)):
        read.inc()
        PROCESS_TALLY.add("read")
        yield image


def _check_nothing_lost(
    files: int, examples: int, examples_handed_on: int, files_handed_on: int
) -> bool:
    require_all_handed_on("images", examples, examples_handed_on)
    require_all_handed_on("files", files, files_handed_on)
    return True
