import hashlib

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from components import require
from http_server import running_server
from storage_emulator import storage_server

from transforms.read_images import ReadImages
from transforms.records import ImageRef, Origin
from transforms.storage.http_source import HttpSettings


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


def test_each_of_a_group_comes_out_once(tmp_path):
    for name, content in {"a": b"same", "b": b"same", "c": b"other", "known": b"known"}.items():
        (tmp_path / name).write_bytes(content)
    uri = {name: str(tmp_path / name) for name in ("a", "b", "c", "known", "missing")}
    known = hashlib.sha256(b"known").hexdigest()
    group = ImageRef(
        uri["a"],
        twins=(
            ImageRef(uri["b"], origin=Origin(carried=("label",))),
            ImageRef(uri["missing"], origin=Origin(carried=("lost",))),
            ImageRef(uri["c"]),
            ImageRef(uri["known"], known_sha256=known),
        ),
    )
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        read = pipeline | beam.Create([group]) | ReadImages()
        assert_that(
            read.ok
            | beam.Map(
                lambda raw: (raw.uri, raw.content, [(t.uri, t.origin.carried) for t in raw.twins])
            ),
            equal_to([(uri["a"], b"same", [(uri["b"], ("label",))]), (uri["c"], b"other", [])]),
            label="Ok",
        )
        assert_that(
            read.failed | beam.Map(lambda failure: (failure.uri, failure.error, failure.carried)),
            equal_to([(uri["missing"], "ImageNotFound", ("lost",))]),
            label="Failed",
        )
        assert_that(
            read.unchanged | beam.Map(lambda ref: ref.uri), equal_to([uri["known"]]), label="Same"
        )


@pytest.fixture(scope="module")
def latent_bucket():
    """A bucket with forty objects that takes a while for each answer."""
    require("gcp_storage_emulator", "pip install 'embed-images[dev]'")
    with storage_server() as server:
        for number in range(40):
            server.put(f"{number}.jpg", b"photo %d" % number)
        server.delay_seconds = 0.02
        yield server


@pytest.mark.parametrize("threads", [1, 16])
def test_the_reads_of_a_worker_overlap_as_the_threads_say(latent_bucket, threads):
    latent_bucket.largest_in_flight = 0
    latent_bucket.requests.clear()
    refs = [ImageRef(f"{latent_bucket.address}/{number}.jpg") for number in range(40)]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        read = (
            pipeline
            | beam.Create([refs])
            | beam.FlatMap(lambda batch: batch)
            | ReadImages(threads=threads)
        )
        assert_that(
            read.ok | beam.Map(lambda raw: (raw.uri, raw.content, raw.origin.generation)),
            equal_to(
                [
                    (ref.uri, b"photo %d" % number, latent_bucket.generation(f"{number}.jpg"))
                    for number, ref in enumerate(refs)
                ]
            ),
        )
    downloads = [request for request in latent_bucket.requests if "/download/" in request]
    assert len(downloads) == 40
    # The client looks once at each bucket, in the background.
    background = len(latent_bucket.requests) - len(downloads)
    assert latent_bucket.largest_in_flight <= threads + background
    assert latent_bucket.largest_in_flight > threads // 2


def test_a_bucket_that_fails_in_the_middle_stops_the_job_without_a_dead_letter(latent_bucket):
    latent_bucket.refuse(r"/o/[23]\d\.jpg|/o/0\.jpg\?(?!alt=media)", 403)
    refs = [ImageRef(f"{latent_bucket.address}/{number}.jpg") for number in (0, 20, 21)]
    try:
        with (
            pytest.raises(Exception, match="could be read, and now it is forbidden"),
            beam.Pipeline(runner="FnApiRunner") as pipeline,
        ):
            _ = pipeline | beam.Create([refs]) | beam.FlatMap(lambda x: x) | ReadImages(threads=1)
    finally:
        latent_bucket.accept()
