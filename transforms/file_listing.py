"""Find files by path, folder or pattern, on local disk and wherever Beam's FileSystems reach.

Beam's own local listing passes over a folder that it may not read, a dangling link and a linked
folder without a word; here nothing is left out unsaid.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote_from_bytes, unquote_to_bytes

from transforms.records import IMAGE_EXTENSIONS, ImageRef


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that an input names, and whether it counts as an image."""

    ref: ImageRef
    is_image: bool


def list_files(
    location: str, extensions: tuple[str, ...] = IMAGE_EXTENSIONS, limit: int | None = None
) -> Iterator[ListedFile]:
    """Yield the files that a path, a folder or a pattern names, one after the other.

    - A folder stands for every file below it, but for hidden ones (their name, or that of a
      folder on the way, begins with a dot) and the `_SUCCESS` of a finished job. Only those with
      one of the `extensions` (in any case; "" is no extension) count as images.
    - In a pattern `*` and `?` stay within one folder, `**` crosses folders, and `**/` also
      stands for no folder at all. Every file that matches counts as an image.
    - A path that exists is taken as it is, whatever characters it holds.
    - Linked folders are followed, once each.
    - An http(s) URL names one file, which is not looked for: in a URL `*` and `?` are no
      wildcards, and there are no folders.

    Local paths come back absolute.

    Args:
        location: a path, folder or pattern, local or such as gs://bucket/prefix.
        extensions: which files of a folder count as images.
        limit: of a remote folder or pattern, ask the storage for no more objects than this.

    Raises:
        FileNotFoundError: a path without wildcards leads nowhere.
        ValueError: no storage is known for the location, or the pattern is no pattern.
        OSError: a folder cannot be listed.

    Example:
        >>> [file.ref.uri for file in list_files("/photos/**/*.jpg")]  # doctest: +SKIP
    """
    if is_http(location):
        yield ListedFile(ImageRef(location), is_image=True)
    elif is_remote(location):
        yield from _list_remote(location, extensions, limit)
    else:
        yield from _list_local(local_path(location), extensions)


def is_remote(location: str) -> bool:
    """Return whether the location has a scheme such as gs://; file:// is local."""
    return "://" in location and not location.startswith("file://")


def is_http(location: str) -> bool:
    """Return whether the location is an http:// or https:// URL."""
    return location.lower().startswith(("http://", "https://"))


def local_path(location: str) -> str:
    """Return a local path or a file:// URI as an absolute path."""
    if location.startswith("file://"):
        location = os.fsdecode(unquote_to_bytes(location.removeprefix("file://")))
    return os.path.abspath(os.path.expanduser(location))


def local_uri(path: str) -> str:
    """Return the absolute path itself, or a file:// URI where its name is no valid UTF-8.

    Outputs are UTF-8, and a file of any name must be told apart from all others in them.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))
    return path


def storage_path(uri: str) -> str:
    """Return a remote URI as it is, and a local path or file:// URI as an absolute path.

    This is what Beam's FileSystems opens for a URI of an `ImageRef`.
    """
    return uri if is_remote(uri) else local_path(uri)


def _list_local(path: str, extensions: tuple[str, ...]) -> Iterator[ListedFile]:
    if os.path.isdir(path):
        for found in _walk(path, max_depth=None, hidden=False):
            yield ListedFile(_local_ref(found), _counts_as_image(found, extensions))
    elif os.path.lexists(path):
        yield ListedFile(_local_ref(path), is_image=True)
    elif has_wildcard(path):
        matches = pattern_matcher(path)
        folder = os.path.dirname(_before_wildcard(path))
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"there is no folder {folder}")
        depth = None if "**" in path else path.count(os.sep) - folder.rstrip(os.sep).count(os.sep)
        for found in _walk(folder, max_depth=depth, hidden=True):
            if matches(found):
                yield ListedFile(_local_ref(found), is_image=True)
    else:
        raise FileNotFoundError(f"there is no file or folder {path}")


def _walk(folder: str, max_depth: int | None, hidden: bool) -> Iterator[str]:
    """Yield the files below a folder, `max_depth` levels of names down, in order of names."""
    seen: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        depth = parent[len(folder) :].count(os.sep) + 1
        if max_depth is not None and depth >= max_depth:
            folders.clear()
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        for name in sorted(files):
            if hidden or not name.startswith("."):
                yield os.path.join(parent, name)


def _local_ref(path: str) -> ImageRef:
    try:
        status = os.stat(path)
    except OSError:
        # A dangling link, or a file that is gone by now: reading it makes the dead letter.
        return ImageRef(local_uri(path))
    return ImageRef(local_uri(path), status.st_size, status.st_mtime)


def _list_remote(
    location: str, extensions: tuple[str, ...], limit: int | None
) -> Iterator[ListedFile]:
    from apache_beam.io.filesystems import FileSystems

    if has_wildcard(location):
        matches = pattern_matcher(location)
        for metadata in FileSystems.match([_before_wildcard(location) + "**"], [limit])[
            0
        ].metadata_list:
            # Beam's own `**/` wants at least one folder, so everything under the prefix is
            # asked for.
            if not metadata.path.endswith("/") and matches(metadata.path):
                yield ListedFile(_remote_ref(metadata), is_image=True)
        return
    is_bucket = location.rstrip("/").count("/") == 2
    if not is_bucket and not location.endswith("/"):
        exact = FileSystems.match([location])[0].metadata_list
        if exact:
            yield ListedFile(_remote_ref(exact[0]), is_image=True)
            return
    prefix = location.rstrip("/") + "/"
    found_any = False
    for metadata in FileSystems.match([prefix + "**"], [limit])[0].metadata_list:
        found_any = True
        names = metadata.path[len(prefix) :].split("/")
        # An empty object whose name ends in a slash is how consoles show a folder.
        if names[-1] and not any(name.startswith(".") for name in names):
            is_image = _counts_as_image(metadata.path, extensions)
            yield ListedFile(_remote_ref(metadata), is_image)
    if not found_any:
        raise FileNotFoundError(f"there is no object or prefix {location}")


def _remote_ref(metadata: object) -> ImageRef:
    return ImageRef(
        getattr(metadata, "path"),  # noqa: B009 - Beam's FileMetadata carries no types
        getattr(metadata, "size_in_bytes", None),
        getattr(metadata, "last_updated_in_seconds", None) or None,
    )


def _counts_as_image(path: str, extensions: tuple[str, ...]) -> bool:
    name = path.rsplit("/", 1)[-1]
    return name != "_SUCCESS" and os.path.splitext(name)[1].lower() in extensions


def has_wildcard(location: str) -> bool:
    """Return whether the location holds `*`, `?` or `[`."""
    return any(character in location for character in "*?[")


def _before_wildcard(pattern: str) -> str:
    return re.split(r"[*?[]", pattern, maxsplit=1)[0]


def pattern_matcher(pattern: str) -> Callable[[str], bool]:
    """Return the test that tells which whole paths a pattern matches.

    Raises:
        ValueError: a range in brackets runs backwards.

    Example:
        >>> matches = pattern_matcher("/photos/**/*.jpg")
        >>> matches("/photos/a.jpg"), matches("/photos/b/c/a.jpg"), matches("/photos/a.png")
        (True, True, False)
    """
    parts = re.findall(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\]|.", pattern, flags=re.DOTALL)
    try:
        compiled = re.compile("".join(_part_expression(part) for part in parts), flags=re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern} is no pattern: {error}") from error
    return lambda path: compiled.fullmatch(path) is not None


def _part_expression(part: str) -> str:
    if part in _WILDCARDS:
        return _WILDCARDS[part]
    if len(part) == 1:
        return re.escape(part)
    negated = "^/" if part[1] == "!" else ""
    members = part[1:-1].removeprefix("!").replace("\\", "\\\\").replace("]", "\\]")
    if members.startswith("^") and not negated:
        members = "\\" + members
    return f"[{negated}{members}]"


_WILDCARDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
