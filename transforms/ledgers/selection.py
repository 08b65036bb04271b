"""What is to be done about one image: embed it, skip it, or report that it is gone.

A ledger holds what earlier runs have embedded: the manifests of an output folder, or a table.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from transforms.formats.embedding_table import Provenance
from transforms.ledgers.ledger import live_entries
from transforms.records import IMAGE_EXTENSIONS, ImageRef, LedgerEntry
from transforms.storage.file_listing import (
    is_http,
    is_pattern,
    is_remote,
    local_path,
    pattern_matcher,
    storage_path,
)

#: Inputs that name images one by one: an image that a list names no longer may well be there.
_LISTS = ("@", "bq:", "tfrecord:")


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of one URI; `replaced` and `kept` are entries of the first ledger."""

    todo: ImageRef | None = None
    """To be embedded, unless its bytes turn out to be those of its `known_sha256`."""
    skipped: bool = False
    """It is in every ledger already."""
    gone: LedgerEntry | None = None
    """It was embedded once, lies within the inputs, and is no longer there: its entry, that of
    the last ledger that has one."""
    kept: tuple[LedgerEntry, ...] = ()
    """Live in the next snapshot, whatever happens."""
    replaced: LedgerEntry | None = None
    """Live in the next snapshot, unless `todo` is embedded."""


def choose(
    ref: ImageRef | None,
    ledgers: Sequence[Iterable[LedgerEntry]],
    provenance: Provenance,
    *,
    in_scope: bool,
    prune: bool,
) -> Choice:
    """Decide about one URI.

    An image is skipped if every ledger has an entry of the job's provenance and of the same
    generation. Where a generation is unknown, `known_sha256` tells what its bytes must be for
    that. Of several entries of one key the newest counts and the others are dropped, as two
    overlapping runs leave them. The entries of other provenances are always kept.

    Args:
        ref: the image as it was listed; None where it was not.
        ledgers: the entries of this URI in each ledger, in any order; at least one ledger.
        provenance: of the job.
        in_scope: whether the inputs would have named the image if it were there, and it is not.
        prune: drop the entry of an image that is gone.

    Example:
        >>> made_by = Provenance("model", "f00d", "cafe")
        >>> choose(ImageRef("a.jpg"), [[]], made_by, in_scope=True, prune=False).todo.uri
        'a.jpg'
    """
    first, *_ = live = [live_entries(entries) for entries in ledgers]
    done = [_of_provenance(entries, provenance) for entries in live]
    others = tuple(entry for entry in first if entry is not done[0])
    everything = (*others, done[0]) if done[0] else others

    if ref is None:
        gone = next(filter(None, reversed(done)), None) if in_scope else None
        return Choice(gone=gone, kept=others if gone and prune else everything)
    missing = not all(done)
    entries = [entry for entry in done if entry]
    if missing or any(_has_changed(ref, entry) for entry in entries):
        return Choice(todo=ref, kept=others, replaced=done[0])
    if all(_is_same(ref, entry) for entry in entries):
        return Choice(skipped=True, kept=everything)
    # Two ledgers that disagree about the bytes cannot both be right.
    contents = {entry.sha256 for entry in entries}
    todo = replace(ref, known_sha256=contents.pop()) if len(contents) == 1 else ref
    return Choice(todo=todo, kept=others, replaced=done[0])


def _of_provenance(entries: list[LedgerEntry], provenance: Provenance) -> LedgerEntry | None:
    for entry in entries:
        if entry.key == (entry.uri, *provenance.set_key):
            return entry
    return None


def _has_changed(ref: ImageRef, entry: LedgerEntry) -> bool:
    generation = ref.origin.generation
    return None not in (generation, entry.generation) and generation != entry.generation


def _is_same(ref: ImageRef, entry: LedgerEntry) -> bool:
    return ref.origin.generation is not None and ref.origin.generation == entry.generation


class Scope:
    """Where the inputs of a job look for images, so that one that is missing there is gone.

    Only folders, patterns and single files are looked through. A list, a manifest, a query and
    a file of TFRecords name images one by one, so what they do not name may well exist. A folder
    answers for what it would list only: not for hidden files, and not for names without one of
    the `extensions`; an image of a kind that the job no longer lists is left alone.

    What a name with wildcards in a bucket means is asked of the storage, as the listing does.

    Args:
        locations: the inputs, as `ListImages` takes them.
        extensions: which files of a folder count as images.

    Example:
        >>> scope = Scope(("/photos", "/more/*.png", "gs://bucket", "@list.txt"))
        >>> "/photos/b/c.jpg" in scope, "gs://bucket/a.png" in scope, "/more/b.jpg" in scope
        (True, True, False)
    """

    def __init__(
        self, locations: Iterable[str], extensions: tuple[str, ...] = IMAGE_EXTENSIONS
    ) -> None:
        self._extensions = extensions
        self._folders: list[str] = []
        self._files: set[str] = set()
        self._matchers = []
        for location in locations:
            if location.startswith(_LISTS) or is_http(location):
                continue
            path = storage_path(location)
            if is_pattern(path):
                self._matchers.append(pattern_matcher(path))
            else:
                self._files.add(path)
                self._folders.append(path.rstrip("/") + "/")

    def __contains__(self, uri: str) -> bool:
        """Return whether the inputs would have named the image at `uri`, if it were there."""
        if is_http(uri):
            return False
        # Absolute paths, which are nearly all, are as they should be.
        path = local_path(uri) if uri.startswith("file://") else uri
        return (
            path in self._files
            or any(self._would_list(path, folder) for folder in self._folders)
            or any(matches(path) for matches in self._matchers)
        )

    def misses(self, uri: str) -> bool:
        """Return whether an image that the listing did not name is gone.

        What still lies on the disk is not: a folder that links lead to is walked once, so the
        listing may have come to the same file by another path.
        """
        return uri in self and (is_remote(uri) or not os.path.lexists(local_path(uri)))

    def _would_list(self, path: str, folder: str) -> bool:
        if not path.startswith(folder):
            return False
        names = path[len(folder) :].split("/")
        extension = os.path.splitext(names[-1])[1].lower()
        return extension in self._extensions and not any(name.startswith(".") for name in names)
