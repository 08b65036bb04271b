"""`GroupIdentical`: find the images whose bytes are the same, before any of them is decoded."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from transforms.records import ImageRef
from transforms.step_parts.pack_in_buckets import PackInBuckets, SpreadByUri, unpack
from transforms.storage.file_listing import is_remote, local_path

#: Of one group, which one worker reads at once.
MAX_GROUP_REFS = 256
MAX_GROUP_BYTES = 256 * 2**20


@dataclass(eq=False)
class GroupIdentical(beam.PTransform):
    """Give one of several references to the same bytes the others as its `twins`.

    Every reference comes out exactly once: by itself, as the first of its group, or as a twin.
    The first of a group is the one whose URI comes first. Groups have at most 256 references and,
    by the sizes in the listing, 256 MiB; where more are alike there are more groups, and the same
    bytes are embedded once for each group. So an image of more than 128 MiB is always alone.

    References are alike where the listing has given them the same checksum and size, or where
    they are local files of the same size and SHA-256; only those of a size that others have, too,
    are read for it. That is a hint and no promise: a file may change, and a checksum can be forged
    or, having 32 bits, be the same by chance. Whoever reads a group must compare. A file that
    cannot be read comes out by itself.

    Example:
        >>> refs = refs | GroupIdentical()  # doctest: +SKIP
    """

    @no_annotations
    def expand(self, refs: beam.PCollection[ImageRef]) -> beam.PCollection[ImageRef]:
        """Return the references, grouped and spread over the workers."""
        by_hint = (
            refs
            | "KeyByHint" >> beam.Map(lambda ref: (listed_hint(ref), ref))
            | "PackByHint" >> PackInBuckets()
            | "GroupByHint" >> beam.GroupByKey()
            | "SortOut" >> beam.FlatMapTuple(_sort_out).with_outputs(SAME_SIZE, main=GROUPS)
        )
        by_content = (
            (by_hint[SAME_SIZE],)
            # One size may be that of very many files; all workers are to read them.
            | "SpreadFiles" >> SpreadByUri()
            | "KeyByContent" >> beam.Map(lambda ref: (content_hint(ref), ref))
            | "PackByContent" >> PackInBuckets()
            | "GroupByContent" >> beam.GroupByKey()
            | "CutGroups" >> beam.FlatMapTuple(_group_by_content)
        )
        # Very many groups may have the same bytes; all workers are to read them.
        return (by_hint[GROUPS], by_content) | "SpreadGroups" >> SpreadByUri()


GROUPS = "groups"
SAME_SIZE = "same_size"


def _sort_out(_: int, packed: Iterable[bytes]) -> Iterator[Any]:
    """Group where the listing has told the content; tag what needs a closer look."""
    groups = OpenGroups()
    # Of a size that very many have, no more than one reference is kept in memory.
    first_of_size: dict[str, ImageRef | None] = {}
    for hint, ref in unpack(packed):
        if not hint.startswith(SIZE):
            yield from groups.add(hint, ref)
        elif hint not in first_of_size:
            first_of_size[hint] = ref
        else:
            first = first_of_size[hint]
            if first is not None:
                yield TaggedOutput(SAME_SIZE, first)
                first_of_size[hint] = None
            yield TaggedOutput(SAME_SIZE, ref)
    yield from groups.rest()
    yield from filter(None, first_of_size.values())


def _group_by_content(_: int, packed: Iterable[bytes]) -> Iterator[ImageRef]:
    groups = OpenGroups()
    for hint, ref in unpack(packed):
        yield from groups.add(hint, ref)
    yield from groups.rest()


SIZE = "size:"


def listed_hint(ref: ImageRef) -> str:
    """Return what the listing says of the content: only where it is equal can the bytes be."""
    if ref.size_bytes is not None and 2 * ref.size_bytes <= MAX_GROUP_BYTES:
        if ref.checksum is not None:
            return f"{ref.checksum}:{ref.size_bytes}"
        if not is_remote(ref.uri):
            return f"{SIZE}{ref.size_bytes}"
    return f"uri:{ref.uri}"


def content_hint(ref: ImageRef) -> str:
    """Return the SHA-256 of a local file, or what no other file has where it cannot be read."""
    path = local_path(ref.uri)
    try:
        # Opening a pipe would wait for ever for somebody to write into it.
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except (OSError, ValueError):
        # Reading the image tells what is wrong with it, and makes the dead letter.
        pass
    return f"uri:{ref.uri}"


class OpenGroups:
    """Groups in the making, one for each hint; a group that is full is handed out at once.

    Example:
        >>> groups = OpenGroups()
        >>> list(groups.add("md5:0", ImageRef("b.jpg"))), list(groups.add("md5:0", ImageRef("a")))
        ([], [])
        >>> [(ref.uri, len(ref.twins)) for ref in groups.rest()]
        [('a', 1)]
    """

    def __init__(self) -> None:
        self._refs: dict[str, list[ImageRef]] = {}
        self._bytes: dict[str, int] = {}

    def add(self, hint: str, ref: ImageRef) -> Iterator[ImageRef]:
        """Add one reference; yield the group that has no room for it, if there is one."""
        group = self._refs.setdefault(hint, [])
        size = self._bytes.get(hint, 0) + (ref.size_bytes or 0)
        if group and (len(group) == MAX_GROUP_REFS or size > MAX_GROUP_BYTES):
            yield _one_with_twins(group)
            group.clear()
            size = ref.size_bytes or 0
        group.append(ref)
        self._bytes[hint] = size

    def rest(self) -> Iterator[ImageRef]:
        """Yield the groups that are not full; there is nothing more to add."""
        return map(_one_with_twins, self._refs.values())


def _one_with_twins(group: list[ImageRef]) -> ImageRef:
    first, *others = sorted(group, key=lambda ref: ref.uri)
    return replace(first, twins=tuple(others)) if others else first
