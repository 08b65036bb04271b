"""What the inputs of a plan name: counted while it is listed, and some of it drawn at random."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from apache_beam.io.filesystem import BeamIOError

from pipeline.config import InputConfig
from transforms.errors import JobError, RequestError
from transforms.folders.output_folder import is_output_file
from transforms.list_images import list_input
from transforms.records import CarriedColumn, ImageRef
from transforms.sources.manifest import BadRow, is_manifest, manifest_parts, read_manifest

#: The same inputs give the same sample.
_SEED = 0


@dataclass(slots=True)
class Listing:
    """What was listed so far. Its size does not grow with the number of images."""

    images: int = 0
    """References and bad rows together."""
    known_bytes: int = 0
    unknown_sizes: int = 0
    """References whose listing tells no size: those of lists, of manifests, and URLs."""
    bad_rows: Counter[str] = field(default_factory=Counter)
    """By the class of the error: rows that fail without being read."""
    ignored: int = 0
    """Files that do not count as images."""
    sample: list[ImageRef] = field(default_factory=list)
    """Drawn evenly at random."""

    @property
    def references(self) -> int:
        """How many images are to be read."""
        return self.images - self.bad_rows.total()


def list_and_sample(
    config: InputConfig,
    columns: tuple[CarriedColumn, ...],
    output_folder: str | None,
    size: int,
    listing: Listing,
) -> None:
    """List every input once, into `listing`, which somebody else may read meanwhile.

    Each image has the same chance to be in the sample, whatever input names it (reservoir
    sampling, algorithm R: https://doi.org/10.1145/3147.3165).

    Args:
        config: whose patterns are files, folders, lists and manifests; of none of the others.
        columns: that are carried along; a row with a wrong value in one fails.
        output_folder: of the job; what a run may have written there is no input.
        size: of the sample.
        listing: empty.

    Raises:
        RequestError: an input cannot be listed to its end, or names nothing to embed.
    """
    draw = random.Random(_SEED)
    for entry in _entries(config, columns, output_folder, listing):
        listing.images += 1
        if isinstance(entry, BadRow):
            listing.bad_rows[type(entry.error).__name__] += 1
            continue
        if entry.size_bytes is None:
            listing.unknown_sizes += 1
        else:
            listing.known_bytes += entry.size_bytes
        if len(listing.sample) < size:
            listing.sample.append(entry)
            continue
        place = draw.randrange(listing.references)
        if place < size:
            listing.sample[place] = entry
    if not listing.images:
        raise RequestError("the inputs name no image, so there is nothing to embed")


def _entries(
    config: InputConfig,
    columns: tuple[CarriedColumn, ...],
    output_folder: str | None,
    listing: Listing,
) -> Iterator[ImageRef | BadRow]:
    for location in config.patterns:
        try:
            if is_manifest(location):
                for part in manifest_parts(location):
                    yield from read_manifest(part, config.uri_column, columns)
            else:
                yield from _of_files(location, config.extensions, output_folder, listing)
        except (OSError, BeamIOError, JobError, ValueError) as error:
            raise RequestError(f"--input {location}: it cannot be listed: {error}") from error


def _of_files(
    location: str, extensions: tuple[str, ...], output_folder: str | None, listing: Listing
) -> Iterator[ImageRef | BadRow]:
    is_list = location.startswith("@")
    for listed in list_input(location, extensions):
        if isinstance(listed, BadRow):
            yield listed
        elif not is_list and output_folder and is_output_file(output_folder, listed.ref.uri):
            continue
        elif listed.is_image:
            yield listed.ref
        else:
            listing.ignored += 1


def named_more_than_once(patterns: Iterable[str]) -> bool:
    """Return whether the inputs may name an image twice, which is then counted twice.

    Example:
        >>> named_more_than_once(["photos/"]), named_more_than_once(["@list.txt"])
        (False, True)
    """
    several = list(patterns)
    return len(several) > 1 or any(each.startswith("@") for each in several)
