"""`ListImages`: from the inputs that the user names to one reference for each image."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton, PBegin, TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.typehints.decorators import no_annotations

from transforms.errors import IncompleteRun, InvalidUri
from transforms.folders.output_folder import is_output_file
from transforms.records import IMAGE_EXTENSIONS, CarriedColumn, CarriedValue, Failure, ImageRef
from transforms.sources.manifest import (
    BadRow,
    entry_uri,
    is_manifest,
    manifest_parts,
    read_manifest,
)
from transforms.sources.manifest_rows import FilePart
from transforms.step_parts.attempt_each import FAILED, make_failure
from transforms.step_parts.count_all import CountAll, require_all_handed_on
from transforms.step_parts.pack_in_buckets import PackInBuckets, SpreadByUri, unpack
from transforms.storage.file_listing import (
    ListedFile,
    is_http,
    is_remote,
    list_files,
    local_uri,
    stat_ref,
    storage_path,
)
from transforms.workers.prefetch import Prefetch
from transforms.workers.tally import PROCESS_TALLY

#: A request for one object takes some 50 ms, nearly all of them waiting.
_LOOK_UP_THREADS = 16


class Listing(NamedTuple):
    """What `ListImages` returns. What it found is `refs` and `failed` together."""

    refs: beam.PCollection[ImageRef]
    """One for each image."""
    ignored: beam.PCollection[str]
    """Files of a folder that do not count as images."""
    failed: beam.PCollection[Failure]
    """One for each row of a manifest that names no image or holds what cannot be carried, and for
    each line of a list that names nothing. Rows fail as rows: `refs` has the image as well where
    something else names it."""
    complete: beam.PCollection[bool]
    """One True, once it is certain that the shuffles have handed on every reference."""


@dataclass(eq=False)
class ListImages(beam.PTransform):
    """List the images that files, folders, patterns, `@lists` and `@manifests` name.

    Starts a pipeline: it takes the pipeline itself, or a tuple of PCollections of references
    from elsewhere, such as a query, which are listed with the others. It returns a `Listing`
    whose references are spread over the workers, each URI once.

    - A list holds one path, URI or http(s) URL a line, a manifest (`transforms.sources.manifest`)
      one in each row; an entry that does not exist is still listed, so that reading it makes a
      dead letter. A row that cannot be used is a failure of its own, and counts as found, even if
      the image is named elsewhere: what it should have carried would be lost unsaid otherwise.
    - What a reference of a folder or a pattern knows of the file (size, generation, ...) comes
      from the listing. Entries of lists, manifests and elsewhere are looked up: local files
      always, objects in a bucket where `look_up_entries` is true, URLs never.
    - Of several references to one URI the result has what any of them knows, and the carried
      values of one: of that with the fewest nulls, or else the first in order of their text. The
      counter images-with-other-values says how often that was a choice.

    Raises (in the worker, which fails the job):
        IncompleteRun: the runner has lost a reference between listing and reading, or an input
            names no image.
        OSError: an input is not there, or cannot be listed to its end.
        UnreadableInput: a manifest lacks a column, or is damaged.

    Example:
        >>> refs = (pipeline | ListImages(("/photos", "@more.txt"))).refs  # doctest: +SKIP
        >>> refs = ((query_refs,) | ListImages(("/photos",))).refs  # doctest: +SKIP
    """

    inputs: tuple[str, ...]
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS
    output_folder: str | None = None
    """Where the run writes, if the inputs may reach into it: what a run left there is no image."""
    uri_column: str = "uri"
    """Of the manifests: where the path or URI is."""
    columns: tuple[CarriedColumn, ...] = ()
    """Of the manifests: what is carried along."""
    look_up_entries: bool = False
    """Whether to ask for the size and the generation of every object in a bucket that no listing
    told: one request each."""

    @no_annotations  # Beam takes a NamedTuple of PCollections for no valid output, and warns.
    def expand(self, start: PBegin | tuple[beam.PCollection[ImageRef], ...]) -> Listing:
        """Return one reference for each image."""
        more_refs, pipeline = (
            (start, start[0].pipeline) if isinstance(start, tuple) else ((), start.pipeline)
        )
        if not self.inputs and not more_refs:
            raise ValueError("inputs is empty; name at least one file, folder, pattern or @list")
        listed = (
            pipeline
            | "Inputs" >> beam.Create(self.inputs)
            | "List"
            >> beam.ParDo(_ListFn(self.extensions, self.output_folder)).with_outputs(
                ENTRIES, PARTS, IGNORED, FAILED, main=REFS
            )
        )
        manifests = (
            listed[PARTS]
            | "SpreadParts" >> beam.Reshuffle()
            | "ReadManifests"
            >> beam.ParDo(_ReadManifestFn(self.uri_column, self.columns)).with_outputs(
                FAILED, PARTS, main=ENTRIES
            )
        )
        entries = tuple(
            each | f"DropOutputs{number}" >> beam.Filter(_is_no_output, self.output_folder)
            for number, each in enumerate((listed[ENTRIES], manifests[ENTRIES], *more_refs))
        )
        # One list may name a million objects, each of which takes a request.
        spread = (
            [tuple(entries) | "SpreadEntries" >> SpreadByUri()] if self.look_up_entries else entries
        )
        looked_up = [
            each | f"LookUp{number}" >> beam.ParDo(_LookUpFn(self.look_up_entries))
            for number, each in enumerate(spread)
        ]
        # The references, which are small, are handed to all workers before a byte of an image
        # is read; what several inputs name is dropped. They are merged when they are packed:
        # else they would lie in the local engine's memory one by one.
        packed = [
            each
            | f"KeyByUri{number}" >> beam.Map(lambda ref: (ref.uri, ref))
            | f"PackInBuckets{number}" >> PackInBuckets()
            for number, each in enumerate((listed[REFS], *looked_up))
        ]
        each_once = (
            packed
            | "MergeRefs" >> beam.Flatten()
            | "GroupByBucket" >> beam.GroupByKey()
            | "OneOfEach" >> beam.FlatMapTuple(_one_of_each).with_outputs(HANDED_ON, main=REFS)
        )
        handed_on = each_once[HANDED_ON] | "SumHandedOn" >> beam.CombineGlobally(sum)
        # What is lost before an image is counted as found would be lost in silence.
        complete = (
            (listed[REFS], *entries)
            | "CountListed" >> CountAll()
            | "CheckNothingLost"
            >> beam.Map(
                _check_nothing_lost,
                AsSingleton(handed_on),
                AsSingleton(listed[PARTS] | "CountParts" >> beam.combiners.Count.Globally()),
                AsSingleton(manifests[PARTS] | "CountPartsRead" >> beam.combiners.Count.Globally()),
            )
        )
        failed = (listed[FAILED], manifests[FAILED]) | "MergeFailed" >> beam.Flatten()
        return Listing(each_once[REFS], listed[IGNORED], failed, complete)


REFS = "refs"
ENTRIES = "entries"
PARTS = "parts"
IGNORED = "ignored"
HANDED_ON = "handed_on"


class _ListFn(beam.DoFn):
    def __init__(self, extensions: tuple[str, ...], output_folder: str | None) -> None:
        self._extensions = extensions
        self._output_folder = output_folder
        self._found = Metrics.counter("ListImages", "images-found")
        self._ignored = Metrics.counter("ListImages", "files-ignored")

    def process(self, location: str) -> Iterator[Any]:
        if is_manifest(location):
            for part in manifest_parts(location):
                yield TaggedOutput(PARTS, part)
            return
        is_list = location.startswith("@")
        found_any = False
        for listed in list_input(location, self._extensions):
            found_any = found_any or isinstance(listed, BadRow) or listed.is_image
            if isinstance(listed, BadRow):
                self._found.inc()
                yield _failed(listed)
            elif is_list:
                yield TaggedOutput(ENTRIES, listed.ref)
            elif not _is_no_output(listed.ref, self._output_folder):
                continue
            elif listed.is_image:
                self._found.inc()
                PROCESS_TALLY.add("found")
                yield listed.ref
            else:
                self._ignored.inc()
                yield TaggedOutput(IGNORED, listed.ref.uri)
        if not found_any:
            raise IncompleteRun(
                f"the input {location} names no image any more; were the images that it named "
                "before to count as gone, an input that has moved would empty the output"
            )


class _ReadManifestFn(beam.DoFn):
    def __init__(self, uri_column: str, columns: tuple[CarriedColumn, ...]) -> None:
        self._uri_column = uri_column
        self._columns = columns
        self._found = Metrics.counter("ListImages", "images-found")

    def process(self, part: FilePart) -> Iterator[Any]:
        for entry in read_manifest(part, self._uri_column, self._columns):
            if isinstance(entry, ImageRef):
                yield entry
            else:
                self._found.inc()
                yield _failed(entry)
        yield TaggedOutput(PARTS, part)


def _failed(row: BadRow) -> TaggedOutput:
    Metrics.counter("ListImages", f"failed-{type(row.error).__name__}").inc()
    PROCESS_TALLY.add("found")
    PROCESS_TALLY.add("failed")
    return TaggedOutput(FAILED, make_failure(row.uri, "ListImages", row.error))


class _LookUpFn(beam.DoFn):
    """Add what is known of a file to an entry that names it."""

    def __init__(self, with_requests: bool) -> None:
        self._with_requests = with_requests
        self._found = Metrics.counter("ListImages", "images-found")

    def setup(self) -> None:
        self._prefetch: Prefetch[ImageRef, ImageRef] = Prefetch(self._look_up, _LOOK_UP_THREADS)

    def start_bundle(self) -> None:
        # A bundle that failed elsewhere has left some behind.
        self._prefetch.cancel()

    def process(self, ref: ImageRef) -> Iterator[ImageRef]:
        self._found.inc()
        PROCESS_TALLY.add("found")
        if not self._with_requests:
            yield self._look_up(ref)
            return
        for _, looked_up in self._prefetch.add(ref, 0):
            yield looked_up

    def finish_bundle(self) -> Iterator[Any]:
        for _, looked_up in self._prefetch.rest():
            yield GlobalWindows.windowed_value(looked_up)

    def teardown(self) -> None:
        self._prefetch.close()

    def _look_up(self, ref: ImageRef) -> ImageRef:
        if ref.size_bytes is not None or (is_remote(ref.uri) and not self._with_requests):
            return ref
        found = stat_ref(ref.uri)
        return replace(found, uri=ref.uri, origin=replace(found.origin, carried=ref.origin.carried))


def _one_of_each(_: int, packed: Iterable[bytes]) -> Iterator[Any]:
    """Yield one reference for each URI of a bucket, and the number of references that came."""
    refs: dict[str, ImageRef] = {}
    with_other_values: set[str] = set()
    count = 0
    for uri, ref in unpack(packed):
        if uri in refs:
            # At once, since one URI may come very many times.
            ref, differ = _one_of_two(refs[uri], ref)
            if differ:
                with_other_values.add(uri)
        refs[uri] = ref
        count += 1
    yield TaggedOutput(HANDED_ON, count)
    if with_other_values:
        Metrics.counter("ListImages", "images-with-other-values").inc(len(with_other_values))
    yield from refs.values()


def _is_no_output(ref: ImageRef, output_folder: str | None) -> bool:
    return output_folder is None or not is_output_file(output_folder, ref.uri)


def _check_nothing_lost(listed: int, handed_on: int, parts: int, parts_read: int) -> bool:
    require_all_handed_on("references", listed, handed_on)
    require_all_handed_on("parts of manifests", parts, parts_read)
    return True


def _one_of_two(one: ImageRef, other: ImageRef) -> tuple[ImageRef, bool]:
    """Return all that is known of one URI, and whether the two carry other values.

    However many references are put together so, their order makes no difference.
    """
    # A listing knows the size, a list of URLs does not.
    known = max(one, other, key=_knowledge)
    first, *others = sorted(
        (each for each in (one.origin.carried, other.origin.carried) if each), key=_preference
    ) or [()]
    differ = any(repr(each) != repr(first) for each in others)
    return replace(known, origin=replace(known.origin, carried=first)), differ


def _knowledge(ref: ImageRef) -> tuple[bool, float, str, str]:
    return (
        ref.size_bytes is not None,
        ref.updated or 0.0,
        ref.checksum or "",
        ref.origin.generation or "",
    )


def _preference(carried: tuple[CarriedValue, ...]) -> tuple[int, str]:
    # As text, because null cannot be compared with a value.
    return carried.count(None), repr(carried)


def list_input(
    location: str, extensions: tuple[str, ...] = IMAGE_EXTENSIONS, limit: int | None = None
) -> Iterator[ListedFile | BadRow]:
    """Yield the files that one input names: a file, a folder, a pattern or an `@list`.

    A manifest is read by `transforms.sources.manifest`, and not here. Arguments and errors are
    those of `file_listing.list_files`. The relative entries of a list are taken from the folder
    that holds the list; one that cannot be a URI is a `BadRow`. A list behind an http(s) URL is an
    OSError.
    """
    if location.startswith("@"):
        yield from _read_list(location[1:])
    else:
        yield from list_files(location, extensions, limit)


def _read_list(location: str) -> Iterator[ListedFile | BadRow]:
    if is_http(location):
        raise OSError("a list is not read over http(s); download it and name the file")
    path = storage_path(location)
    folder = os.path.dirname(path)
    with FileSystems.open(path) as file:
        # Of a compressed list Beam's reader knows no iteration.
        for number, line in enumerate(iter(file.readline, b""), start=1):
            # Some editors begin a file with a byte order mark.
            entry = line.decode("utf-8", "surrogateescape").strip("\ufeff\r\n\t ")
            if not entry:
                continue
            try:
                yield ListedFile(ImageRef(entry_uri(entry, folder)), is_image=True)
            except InvalidUri as error:
                shown = entry.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                name = f"{local_uri(path)}:line {number}"
                yield BadRow(shown, InvalidUri(f"{name}: {error}"))
