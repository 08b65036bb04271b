import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from http_server import running_server

from transforms import image_reading
from transforms.errors import ImageForbidden, ImageNotFound, ImageTooLarge
from transforms.http_source import HttpSettings
from transforms.image_reading import read_image
from transforms.records import ImageRef, RawImage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"not really a photograph")
    return str(path)


def test_the_bytes_come_whole_and_with_their_hash(photo):
    content = b"not really a photograph"
    assert read_image(ImageRef(photo)) == RawImage(
        photo, content, hashlib.sha256(content).hexdigest()
    )


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


def test_a_file_at_the_limit_is_read_and_one_byte_more_is_too_large(photo):
    assert read_image(ImageRef(photo), max_bytes=23).content
    with pytest.raises(ImageTooLarge, match="more than the 22 bytes"):
        read_image(ImageRef(photo), max_bytes=22)


def test_a_size_that_the_listing_knows_is_refused_unread(tmp_path):
    with pytest.raises(ImageTooLarge, match="99 bytes, more than the 22 bytes"):
        read_image(ImageRef(str(tmp_path / "never opened.jpg"), size_bytes=99), max_bytes=22)


def test_an_endless_file_is_read_only_up_to_the_limit():
    with pytest.raises(ImageTooLarge):
        read_image(ImageRef("/dev/zero"), max_bytes=1000)


def test_a_passing_fault_of_the_storage_is_tried_again(photo, monkeypatch):
    monkeypatch.setattr(image_reading, "RETRY_AFTER_SECONDS", (0.0, 0.0))
    faults = [OSError("connection reset"), OSError("connection reset")]

    def flaky_open(uri, **options):
        assert uri == "gs://bucket/photo.jpg"
        if faults:
            raise faults.pop()
        return open(photo, "rb")

    monkeypatch.setattr(FileSystems, "open", flaky_open)
    assert read_image(ImageRef("gs://bucket/photo.jpg")).content == b"not really a photograph"
    assert not faults


def test_a_lasting_fault_of_the_storage_is_no_fault_of_the_image(monkeypatch):
    monkeypatch.setattr(image_reading, "RETRY_AFTER_SECONDS", (0.0, 0.0))

    def broken_open(uri, **options):
        raise OSError("connection reset")

    monkeypatch.setattr(FileSystems, "open", broken_open)
    with pytest.raises(OSError, match="connection reset"):
        read_image(ImageRef("gs://bucket/photo.jpg"))


def test_what_the_storage_says_of_one_object_is_that_images_error(monkeypatch):
    class Refused(Exception):
        code = 403

    def refusing_open(uri, **options):
        raise BeamIOError("open failed", {uri: Refused("no access")})

    monkeypatch.setattr(FileSystems, "open", refusing_open)
    with pytest.raises(ImageForbidden, match=r"may not read gs://bucket/photo\.jpg: no access"):
        read_image(ImageRef("gs://bucket/photo.jpg"))


def test_a_url_is_read_under_the_same_limit():
    private = HttpSettings(allow_private_addresses=True)
    with running_server() as server:
        url = server.serve("/photo.jpg", b"not really a photograph")
        assert read_image(ImageRef(url), 23, private).content == b"not really a photograph"
        with pytest.raises(ImageTooLarge):
            read_image(ImageRef(url), 22, private)


def test_local_files_are_read_without_beam(photo):
    script = (
        "import sys; from transforms.image_reading import read_image; "
        "from transforms.records import ImageRef; "
        f"assert read_image(ImageRef({photo!r})).content; "
        "sys.exit('apache_beam' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
