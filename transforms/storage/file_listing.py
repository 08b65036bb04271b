"""Find files by path, folder or pattern, on local disk, in buckets, and where Beam else reaches.

Beam's own local listing passes over a folder that it may not read, a dangling link and a linked
folder without a word; here nothing is left out unsaid.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes, unquote_to_bytes

from transforms.errors import ImageError
from transforms.records import IMAGE_EXTENSIONS, ImageRef, Origin

if TYPE_CHECKING:
    # Its client is slow to import, and is imported for gs:// only.
    from transforms.storage.cloud_storage import StoredObject


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
    - A path that exists is taken as it is, whatever characters it holds. In a bucket it may be
      an object and a folder, and stands for both.
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
        OSError: a folder or a bucket cannot be listed.

    Example:
        >>> [file.ref.uri for file in list_files("/photos/**/*.jpg")]  # doctest: +SKIP
    """
    if is_http(location):
        yield ListedFile(ImageRef(location), is_image=True)
    elif is_remote(location):
        yield from _list_remote(location, extensions, limit)
    else:
        yield from _list_local(local_path(location), extensions)


def stat_ref(uri: str) -> ImageRef:
    """Return the reference to one file that an entry of a list names, with what can be known.

    A local file costs a look at its folder, an object in a bucket one request; of all others
    nothing is known but the URI. So it is of a file that is not there or cannot be looked at:
    reading it makes the dead letter.

    Raises:
        UnusableBucket, OSError: the storage fails, whatever the file.

    Example:
        >>> stat_ref("https://example.org/a.jpg").size_bytes is None
        True
    """
    if is_gs(uri):
        from transforms.storage.cloud_storage import stat_object

        try:
            return _ref_of_object(stat_object(uri))
        except ImageError:
            return ImageRef(uri)
    return ImageRef(uri) if is_remote(uri) else _local_ref(local_path(uri))


def is_pattern(location: str) -> bool:
    """Return whether a location is a pattern: it has wildcards, and nothing has just this name.

    Asks the storage, in two requests, where a location in a bucket has wildcards.

    Raises:
        ValueError, OSError: as `list_files`.

    Example:
        >>> is_pattern("/photos/*.jpg"), is_pattern("/photos"), is_pattern("https://h/a?b=c")
        (True, False, False)
    """
    if not has_wildcard(location) or is_http(location):
        return False
    if is_remote(location):
        return _remote_file(location) is None and not _is_prefix(location)
    return not os.path.lexists(local_path(location))


def is_remote(location: str) -> bool:
    """Return whether the location has a scheme such as gs://; file:// is local."""
    return "://" in location and not location.startswith("file://")


def is_gs(location: str) -> bool:
    """Return whether the location lies in Cloud Storage."""
    return location.startswith("gs://")


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
    if is_pattern(path):
        matches = pattern_matcher(path)
        folder = os.path.dirname(_before_wildcard(path))
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"there is no folder {folder}")
        depth = None if "**" in path else path.count(os.sep) - folder.rstrip(os.sep).count(os.sep)
        for found in _walk(folder, max_depth=depth, hidden=True):
            if matches(found):
                yield ListedFile(_local_ref(found), is_image=True)
    elif os.path.isdir(path):
        for found in _walk(path, max_depth=None, hidden=False):
            yield ListedFile(_local_ref(found), _counts_as_image(found, extensions))
    elif os.path.lexists(path):
        yield ListedFile(_local_ref(path), is_image=True)
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


def local_generation(status: os.stat_result) -> str:
    """Return what tells one version of a local file from another."""
    return f"{status.st_mtime_ns}-{status.st_size}"


def _local_ref(path: str) -> ImageRef:
    uri = local_uri(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        # A dangling link, a file that is gone by now, or a name with a zero byte: reading it
        # makes the dead letter.
        return ImageRef(uri)
    return ImageRef(uri, status.st_size, status.st_mtime, Origin(local_generation(status)))


def _list_remote(
    location: str, extensions: tuple[str, ...], limit: int | None
) -> Iterator[ListedFile]:
    if is_pattern(location):
        matches = pattern_matcher(location)
        # The storages' own patterns mean something else, so everything under the prefix is
        # asked for.
        for ref in _remote_files(_before_wildcard(location), limit):
            if not ref.uri.endswith("/") and matches(ref.uri):
                yield ListedFile(ref, is_image=True)
        return
    exact = _remote_file(location)
    if exact is not None:
        yield ListedFile(exact, is_image=True)
        if not _may_be_file_and_folder(location):
            return
    prefix = location.rstrip("/") + "/"
    found_any = exact is not None
    for ref in _remote_files(prefix, limit):
        found_any = True
        names = ref.uri[len(prefix) :].split("/")
        # An empty object whose name ends in a slash is how consoles show a folder.
        if names[-1] and not any(name.startswith(".") for name in names):
            yield ListedFile(ref, _counts_as_image(ref.uri, extensions))
    if not found_any:
        raise FileNotFoundError(f"there is no object or prefix {location}")


def _remote_file(uri: str) -> ImageRef | None:
    """Return the file of exactly this name, if there is one."""
    is_bucket = uri.rstrip("/").count("/") == 2
    if is_bucket or uri.endswith("/"):
        return None
    if is_gs(uri):
        # Of all names that begin like this one, it is the first.
        first = next(_remote_files(uri, limit=1), None)
        return first if first is not None and first.uri == uri else None
    if has_wildcard(uri):
        return None
    from apache_beam.io.filesystems import FileSystems

    exact = FileSystems.match([uri])[0].metadata_list
    return _ref_of_metadata(exact[0]) if exact else None


def _may_be_file_and_folder(location: str) -> bool:
    """Return whether something can lie below a path that is a file, as in a bucket."""
    if is_gs(location):
        return True
    from apache_beam.io.filesystems import FileSystems

    return not FileSystems.get_filesystem(location).has_dirs()


def _is_prefix(location: str) -> bool:
    """Return whether there is a folder of exactly this name, whatever characters it holds."""
    return is_gs(location) and any(_remote_files(location.rstrip("/") + "/", limit=1))


def _remote_files(prefix: str, limit: int | None) -> Iterator[ImageRef]:
    """Yield the files whose URI begins with the prefix, which holds no wildcards but in gs://."""
    if is_gs(prefix):
        from transforms.storage.cloud_storage import list_objects

        yield from map(_ref_of_object, list_objects(prefix, limit))
        return
    from apache_beam.io.filesystems import FileSystems

    yield from map(_ref_of_metadata, FileSystems.match([prefix + "**"], [limit])[0].metadata_list)


def _ref_of_object(found: "StoredObject") -> ImageRef:
    # An object composed of parts has no MD5, and others that hold the same bytes may have one.
    checksum = None
    if found.crc32c is not None:
        checksum = f"crc32c:{found.crc32c}"
    elif found.md5 is not None:
        checksum = f"md5:{found.md5}"
    return ImageRef(found.uri, found.size_bytes, found.updated, Origin(found.generation), checksum)


def _ref_of_metadata(metadata: object) -> ImageRef:
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
