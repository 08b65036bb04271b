import hashlib
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from http_server import running_server

from transforms.errors import ImageForbidden, ImageNotFound, ImageTooLarge, InvalidUri
from transforms.records import ImageRef, Origin, RawImage
from transforms.sources import image_reading
from transforms.sources.image_reading import read_group, read_image
from transforms.storage.file_listing import list_files
from transforms.storage.http_source import HttpSettings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"not really a photograph")
    return str(path)


def test_the_bytes_come_whole_and_with_their_hash(photo):
    content = b"not really a photograph"
    listed = next(list_files(photo)).ref
    assert read_image(ImageRef(photo)) == RawImage(
        photo, content, hashlib.sha256(content).hexdigest(), listed.origin
    )


def test_the_generation_is_that_of_the_bytes_that_were_read(photo):
    listed = next(list_files(photo)).ref
    carrying = replace(listed, origin=replace(listed.origin, carried=("label",)))
    Path(photo).write_bytes(b"written anew")
    raw = read_image(replace(carrying, size_bytes=None))
    assert raw.content == b"written anew"
    assert raw.origin == Origin(next(list_files(photo)).ref.origin.generation, ("label",))
    assert raw.origin.generation != listed.origin.generation


def group_of(folder, **contents):
    """A reference whose twins are all but the first; None makes no file."""
    for name, content in contents.items():
        if content is not None:
            (folder / name).write_bytes(content)
    first, *others = (
        ImageRef(str(folder / name), origin=Origin(carried=(name,))) for name in contents
    )
    return replace(first, twins=tuple(others))


def held(group):
    """Which names share which content."""
    return {
        raw.content: [raw.origin.carried[0], *(twin.origin.carried[0] for twin in raw.twins)]
        for raw in group.images
    }


def test_twins_with_the_same_bytes_share_an_image(tmp_path):
    group = read_group(group_of(tmp_path, a=b"same", b=b"same", c=b"same"))
    assert held(group) == {b"same": ["a", "b", "c"]}
    (raw,) = group.images
    assert [twin.uri for twin in raw.twins] == [str(tmp_path / "b"), str(tmp_path / "c")]
    for twin in raw.twins:
        assert twin.origin.generation == next(list_files(twin.uri)).ref.origin.generation


def test_what_was_taken_for_a_twin_and_is_none_gets_an_image_of_its_own(tmp_path):
    group = read_group(group_of(tmp_path, a=b"one", b=b"two", c=b"one", d=b"two", e=b"three"))
    assert held(group) == {b"one": ["a", "c"], b"two": ["b", "d"], b"three": ["e"]}


def test_a_missing_twin_costs_only_itself(tmp_path):
    group = read_group(group_of(tmp_path, a=None, b=b"same", c=b"same"))
    assert held(group) == {b"same": ["b", "c"]}
    ((failed, error),) = group.failed
    assert failed.uri == str(tmp_path / "a")
    assert isinstance(error, ImageNotFound)


def test_bytes_that_an_earlier_run_embedded_are_unchanged(tmp_path):
    ref = group_of(tmp_path, a=b"same", b=b"same", c=b"other")
    known = hashlib.sha256(b"same").hexdigest()
    ref = replace(
        ref,
        known_sha256=known,
        twins=tuple(replace(twin, known_sha256=known) for twin in ref.twins),
    )
    group = read_group(ref)
    assert [unchanged.origin.carried for unchanged in group.unchanged] == [("a",), ("b",)]
    assert not any(unchanged.twins for unchanged in group.unchanged)
    assert held(group) == {b"other": ["c"]}


def test_a_file_named_gz_is_read_as_it_is_stored(tmp_path):
    path = tmp_path / "photo.jpg.gz"
    path.write_bytes(b"\x1f\x8b not really compressed")
    assert read_image(ImageRef(str(path))).content == path.read_bytes()


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(ImageNotFound, match="there is no file"):
        read_image(ImageRef(str(tmp_path / "missing.jpg")))


def test_a_folder_is_not_found_as_a_file(tmp_path):
    with pytest.raises(ImageNotFound, match="folder"):
        read_image(ImageRef(str(tmp_path)))


def test_a_path_below_a_file_is_not_found(photo):
    with pytest.raises(ImageNotFound):
        read_image(ImageRef(photo + "/below.jpg"))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_without_rights_is_forbidden(photo):
    os.chmod(photo, 0)
    with pytest.raises(ImageForbidden):
        read_image(ImageRef(photo))


def test_a_file_that_the_system_refuses_is_forbidden_also_to_root(photo, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(image_reading, "open", refuse, raising=False)
    with pytest.raises(ImageForbidden, match="may not read"):
        read_image(ImageRef(photo))


def test_a_file_at_the_limit_is_read_and_one_byte_more_is_too_large(photo):
    assert read_image(ImageRef(photo), max_bytes=23).content
    with pytest.raises(ImageTooLarge, match="more than the 22 bytes"):
        read_image(ImageRef(photo), max_bytes=22)


def test_a_size_that_the_listing_knows_is_refused_unread(tmp_path):
    with pytest.raises(ImageTooLarge, match="99 bytes, more than the 22 bytes"):
        read_image(ImageRef(str(tmp_path / "never opened.jpg"), size_bytes=99), max_bytes=22)


def test_a_file_that_grows_past_the_limit_is_read_only_up_to_it(photo):
    with pytest.raises(ImageTooLarge):
        read_image(ImageRef(photo, size_bytes=1), max_bytes=22)


def test_what_is_no_regular_file_is_not_found_and_never_opened(tmp_path):
    pipe, loop = tmp_path / "pipe.jpg", tmp_path / "loop.jpg"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jpg"))
        for path in (pipe, loop, tmp_path / "socket.jpg", "/dev/zero", tmp_path / ("x" * 300)):
            with pytest.raises(ImageNotFound):
                read_image(ImageRef(str(path)))


@pytest.mark.parametrize("uri", ["htps://host/a.png", "/photos/a\0b.png"])
def test_a_uri_that_names_nothing_is_invalid_and_not_tried_again(uri, monkeypatch):
    monkeypatch.setattr(image_reading, "RETRY_AFTER_SECONDS", (1e9,))
    with pytest.raises(InvalidUri):
        read_image(ImageRef(uri))


class StorageError(Exception):
    """As the clients of the clouds raise them."""

    def __init__(self, code):
        super().__init__(f"HTTP {code}")
        self.code = code


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in Beam's wrapping"])
@pytest.mark.parametrize(
    ("code", "expected", "calls"),
    [
        (404, ImageNotFound, 1),
        (403, ImageForbidden, 1),
        # Bad credentials are no fault of an image: every one would fail.
        (401, None, 1),
        (400, None, 1),
        (503, None, 3),
        (429, None, 3),
    ],
)
def test_what_the_status_of_a_storage_means(monkeypatch, code, wrapped, expected, calls):
    monkeypatch.setattr(image_reading, "RETRY_AFTER_SECONDS", (0.0, 0.0))
    seen = []

    def answer(path, **options):
        seen.append(path)
        error = StorageError(code)
        raise BeamIOError("open failed", {path: error}) if wrapped else error

    monkeypatch.setattr(FileSystems, "open", answer)
    with pytest.raises(expected or (StorageError, BeamIOError)):
        read_image(ImageRef("s3://bucket/a.jpg"))
    assert len(seen) == calls


def test_a_passing_fault_of_the_storage_is_tried_again(photo, monkeypatch):
    monkeypatch.setattr(image_reading, "RETRY_AFTER_SECONDS", (0.0, 0.0))
    faults = [OSError("connection reset"), OSError("connection reset")]

    def flaky_open(uri, **options):
        assert uri == "s3://bucket/photo.jpg"
        if faults:
            raise faults.pop()
        return open(photo, "rb")

    monkeypatch.setattr(FileSystems, "open", flaky_open)
    assert read_image(ImageRef("s3://bucket/photo.jpg")).content == b"not really a photograph"
    assert not faults


def test_a_lasting_fault_of_the_storage_is_no_fault_of_the_image(monkeypatch):
    monkeypatch.setattr(image_reading, "RETRY_AFTER_SECONDS", (0.0, 0.0))

    def broken_open(uri, **options):
        raise OSError("connection reset")

    monkeypatch.setattr(FileSystems, "open", broken_open)
    with pytest.raises(OSError, match="connection reset"):
        read_image(ImageRef("s3://bucket/photo.jpg"))


def test_a_url_is_read_under_the_same_limit():
    private = HttpSettings(allow_private_addresses=True)
    with running_server() as server:
        url = server.serve("/photo.jpg", b"not really a photograph")
        assert read_image(ImageRef(url), 23, private).content == b"not really a photograph"
        with pytest.raises(ImageTooLarge):
            read_image(ImageRef(url), 22, private)


def test_local_files_are_read_without_beam(photo):
    script = (
        "import sys; from transforms.sources.image_reading import read_image; "
        "from transforms.records import ImageRef; "
        f"assert read_image(ImageRef({photo!r})).content; "
        "sys.exit('apache_beam' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
