"""`ListImages`: from the inputs that the user names to one reference for each image."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from transforms.errors import IncompleteRun
from transforms.file_listing import (
    ListedFile,
    is_http,
    is_remote,
    list_files,
    local_path,
    local_uri,
    storage_path,
)
from transforms.output_folder import is_output_file
from transforms.records import IMAGE_EXTENSIONS, ImageRef
from transforms.tally import PROCESS_TALLY


class Listing(NamedTuple):
    """What `ListImages` returns."""

    refs: beam.PCollection[ImageRef]
    """One for each image."""
    ignored: beam.PCollection[str]
    """Files of a folder that do not count as images."""
    complete: beam.PCollection[bool]
    """One True, once it is certain that the shuffle has handed on every reference."""


@dataclass(eq=False)
class ListImages(beam.PTransform):
    """List the images that files, folders, patterns and `@lists` name, each URI once.

    Starts a pipeline: it takes the pipeline itself, and returns a `Listing` whose references are
    spread over the workers. A list holds one path, URI or http(s) URL a line; an entry that does
    not exist is still listed, so that reading it makes a dead letter.

    Raises (in the worker, which fails the job):
        IncompleteRun: the runner has lost a reference between listing and reading.

    Example:
        >>> refs = (pipeline | ListImages(("/photos", "@more.txt"))).refs  # doctest: +SKIP
    """

    inputs: tuple[str, ...]
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS
    output_folder: str | None = None
    """Where the run writes, if the inputs may reach into it: what a run left there is no image."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("inputs is empty; name at least one file, folder, pattern or @list")

    @no_annotations  # Beam takes a NamedTuple of PCollections for no valid output, and warns.
    def expand(self, pipeline: beam.Pipeline) -> Listing:
        """Return one reference for each image."""
        listed = (
            pipeline
            | "Inputs" >> beam.Create(self.inputs)
            | "List"
            >> beam.ParDo(_ListFn(self.extensions, self.output_folder)).with_outputs(
                IGNORED, main=REFS
            )
        )
        # The one shuffle of the job: it drops what two inputs both name, and it hands the
        # references, which are small, to all workers before a byte of an image is read.
        groups = (
            listed[REFS]
            | "KeyByUri" >> beam.Map(lambda ref: (ref.uri, ref))
            | "GroupByUri" >> beam.GroupByKey()
            | "Materialise" >> beam.MapTuple(lambda uri, refs: list(refs))
        )
        handed_on = (
            groups | "GroupSizes" >> beam.Map(len) | "SumGroupSizes" >> beam.CombineGlobally(sum)
        )
        # What is lost before an image is counted as found would be lost in silence.
        complete = (
            listed[REFS]
            | "CountListed" >> beam.combiners.Count.Globally()
            | "CheckNothingLost" >> beam.Map(_check_nothing_lost, AsSingleton(handed_on))
        )
        return Listing(groups | "OneEach" >> beam.Map(_one_of_them), listed[IGNORED], complete)


REFS = "refs"
IGNORED = "ignored"


class _ListFn(beam.DoFn):
    def __init__(self, extensions: tuple[str, ...], output_folder: str | None) -> None:
        self._extensions = extensions
        self._output_folder = output_folder
        self._found = Metrics.counter("ListImages", "images-found")
        self._ignored = Metrics.counter("ListImages", "files-ignored")

    def process(self, location: str) -> Iterator[Any]:
        for listed in list_input(location, self._extensions):
            uri = listed.ref.uri
            if self._output_folder is not None and is_output_file(self._output_folder, uri):
                continue
            if listed.is_image:
                self._found.inc()
                PROCESS_TALLY.add("found")
                yield listed.ref
            else:
                self._ignored.inc()
                yield TaggedOutput(IGNORED, uri)


def _check_nothing_lost(listed: int, handed_on: int) -> bool:
    if listed != handed_on:
        raise IncompleteRun(
            f"listed {listed:,} references, but the runner handed on {handed_on:,}; run the job "
            "again, on another runner if it happens again"
        )
    return True


def _one_of_them(refs: list[ImageRef]) -> ImageRef:
    # A listing knows the size, a list does not.
    return max(refs, key=lambda ref: ref.size_bytes is not None)


def list_input(
    location: str, extensions: tuple[str, ...] = IMAGE_EXTENSIONS, limit: int | None = None
) -> Iterator[ListedFile]:
    """Yield the files that one input names: a file, a folder, a pattern or an `@list`.

    Arguments and errors are those of `file_listing.list_files`. The relative entries of a list
    are taken from the folder that holds the list. A list behind an http(s) URL is an OSError.
    """
    if location.startswith("@"):
        yield from (ListedFile(ref, is_image=True) for ref in _read_list(location[1:]))
    else:
        yield from list_files(location, extensions, limit)


def _read_list(location: str) -> Iterator[ImageRef]:
    if is_http(location):
        raise OSError("a list is not read over http(s); download it and name the file")
    path = storage_path(location)
    folder = os.path.dirname(path)
    with FileSystems.open(path) as file:
        # Of a compressed list Beam's reader knows no iteration.
        for line in iter(file.readline, b""):
            # Some editors begin a file with a byte order mark.
            entry = line.decode("utf-8", "surrogateescape").strip("\ufeff\r\n\t ")
            if entry:
                yield ImageRef(_entry_uri(entry, folder))


def _entry_uri(entry: str, folder: str) -> str:
    if is_remote(entry):
        return entry
    if is_remote(folder) and not entry.startswith(("/", "~", "file://")):
        return f"{folder}/{entry}"
    return local_uri(
        local_path(entry if entry.startswith(("~", "file://")) else os.path.join(folder, entry))
    )
