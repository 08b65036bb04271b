import hashlib
import os

import apache_beam as beam
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.testing.util import assert_that, equal_to

from transforms import read_images
from transforms.errors import ImageForbidden, ImageNotFound, ImageTooLarge
from transforms.read_images import ReadImages, read_image
from transforms.records import ImageRef, RawImage


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
    monkeypatch.setattr(read_images, "RETRY_AFTER_SECONDS", (0.0, 0.0))
    real_open = FileSystems.open
    faults = [OSError("connection reset"), OSError("connection reset")]

    def flaky_open(*arguments, **options):
        if faults:
            raise faults.pop()
        return real_open(*arguments, **options)

    monkeypatch.setattr(FileSystems, "open", flaky_open)
    assert read_image(ImageRef(photo)).content == b"not really a photograph"
    assert not faults


def test_a_lasting_fault_of_the_storage_is_no_fault_of_the_image(photo, monkeypatch):
    monkeypatch.setattr(read_images, "RETRY_AFTER_SECONDS", (0.0, 0.0))

    def broken_open(*arguments, **options):
        raise OSError("connection reset")

    monkeypatch.setattr(FileSystems, "open", broken_open)
    with pytest.raises(OSError, match="connection reset"):
        read_image(ImageRef(photo))


def test_good_and_bad_references_part_ways(photo, tmp_path):
    missing = str(tmp_path / "missing.jpg")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        read = pipeline | beam.Create([ImageRef(photo), ImageRef(missing)]) | ReadImages()
        assert_that(read.ok | beam.Map(lambda raw: raw.uri), equal_to([photo]), label="Ok")
        assert_that(
            read.failed | beam.Map(lambda failure: (failure.uri, failure.stage, failure.error)),
            equal_to([(missing, "ReadImages", "ImageNotFound")]),
            label="Failed",
        )


def test_a_limit_below_one_byte_is_refused():
    with pytest.raises(ValueError, match="max_bytes is 0"):
        ReadImages(max_bytes=0)
