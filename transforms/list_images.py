"""`ListImages`: from the inputs that the user names to one reference for each image."""

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
from transforms.outcome import PROCESS_TALLY
from transforms.records import IMAGE_EXTENSIONS, ImageRef


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


def list_input(location: str, extensions: tuple[str, ...] = IMAGE_EXTENSIONS) -> Iterator[ImageRef]:
    """Yield the references that one input names: a file, a folder, a pattern or an `@list`.

    Raises:
        FileNotFoundError: the input names a file, a folder or a list that is not there.
        OSError: it cannot be listed, or is a list behind an http(s) URL.
    """
    if location.startswith("@"):
        yield from _read_list(location[1:])
        return
    for file in list_files(location, extensions):
        if file.is_image:
            yield file.ref
        else:
            Metrics.counter("ListImages", "files-with-other-extensions").inc()
            PROCESS_TALLY.add("files-with-other-extensions")


def _read_list(location: str) -> Iterator[ImageRef]:
    if is_http(location):
        raise OSError("a list is not read over http(s); download it and name the file")
    with FileSystems.open(storage_path(location)) as file:
        for line in file:
            # Some editors begin a file with a byte order mark.
            entry = line.decode("utf-8", "surrogateescape").strip("\ufeff\r\n\t ")
            if entry:
                yield ImageRef(entry if is_remote(entry) else local_uri(local_path(entry)))


def _one_of_them(group: tuple[str, Iterable[ImageRef]]) -> ImageRef:
    PROCESS_TALLY.add("found")
    # A listing knows the size, a list does not.
    return max(group[1], key=lambda ref: ref.size_bytes is not None)
