"""`ListImages`: from the inputs that the user names to one reference for each image."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from transforms.file_listing import (
    is_http,
    is_remote,
    list_files,
    local_path,
    local_uri,
    storage_path,
)
from transforms.records import IMAGE_EXTENSIONS, ImageRef
from transforms.tally import PROCESS_TALLY


@dataclass(eq=False)
class ListImages(beam.PTransform):
    """List the images that files, folders, patterns and `@lists` name, each URI once.

    Starts a pipeline: it takes the pipeline itself and returns `PCollection[ImageRef]`, spread
    over the workers. A list holds one path, URI or http(s) URL a line; an entry that does not
    exist is still listed, so that reading it makes a dead letter.

    Example:
        >>> refs = pipeline | ListImages(("/photos", "@more.txt"))  # doctest: +SKIP
    """

    inputs: tuple[str, ...]
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("inputs is empty; name at least one file, folder, pattern or @list")

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[ImageRef]:
        """Return one reference for each image."""
        return (
            pipeline
            | "Inputs" >> beam.Create(self.inputs)
            | "List" >> beam.FlatMap(list_input, self.extensions)
            # The one shuffle of the job: it drops what two inputs both name, and it hands the
            # references, which are small, to all workers before a byte of an image is read.
            | "KeyByUri" >> beam.Map(lambda ref: (ref.uri, ref))
            | "GroupByUri" >> beam.GroupByKey()
            | "OneEach" >> beam.Map(_one_of_them)
        )


def list_input(
    location: str, extensions: tuple[str, ...] = IMAGE_EXTENSIONS, limit: int | None = None
) -> Iterator[ImageRef]:
    """Yield the references that one input names: a file, a folder, a pattern or an `@list`.

    Arguments and errors are those of `file_listing.list_files`. The relative entries of a list
    are taken from the folder that holds the list. A list behind an http(s) URL is an OSError.
    """
    if location.startswith("@"):
        yield from _read_list(location[1:])
        return
    for file in list_files(location, extensions, limit):
        if file.is_image:
            yield file.ref
        else:
            Metrics.counter("ListImages", "files-with-other-extensions").inc()
            PROCESS_TALLY.add("files-with-other-extensions")


def _read_list(location: str) -> Iterator[ImageRef]:
    if is_http(location):
        raise OSError("a list is not read over http(s); download it and name the file")
    folder = os.path.dirname(location if is_remote(location) else local_path(location))
    with FileSystems.open(storage_path(location)) as file:
        for line in file:
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


def _one_of_them(group: tuple[str, Iterable[ImageRef]]) -> ImageRef:
    Metrics.counter("ListImages", "images-found").inc()
    PROCESS_TALLY.add("found")
    # A listing knows the size, a list does not.
    return max(group[1], key=lambda ref: ref.size_bytes is not None)
