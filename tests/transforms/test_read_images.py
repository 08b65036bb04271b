import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from http_server import running_server

from transforms.http_source import HttpSettings
from transforms.read_images import ReadImages
from transforms.records import ImageRef


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"not really a photograph")
    return str(path)


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


def test_urls_are_read_and_a_dead_one_is_a_failure_and_not_the_jobs(photo):
    with running_server() as server:
        url = server.serve("/a.jpg", b"from the web")
        gone = server.url("/gone.jpg")
        down = server.serve("/down.jpg", b"", status=502)
        private = HttpSettings(allow_private_addresses=True)
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            refs = pipeline | beam.Create([ImageRef(uri) for uri in (photo, url, gone, down)])
            read = refs | ReadImages(http=private)
            assert_that(
                read.ok | beam.Map(lambda raw: (raw.uri, raw.content)),
                equal_to([(photo, b"not really a photograph"), (url, b"from the web")]),
                label="Ok",
            )
            assert_that(
                read.failed | beam.Map(lambda failure: (failure.uri, failure.error)),
                equal_to([(gone, "ImageNotFound"), (down, "ImageUnreachable")]),
                label="Failed",
            )


def test_urls_into_the_own_network_are_failures_unless_allowed(photo):
    url = "http://127.0.0.1:9/a.jpg"
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        read = pipeline | beam.Create([ImageRef(url)]) | ReadImages()
        assert_that(
            read.failed | beam.Map(lambda failure: (failure.uri, failure.error)),
            equal_to([(url, "ImageForbidden")]),
        )
