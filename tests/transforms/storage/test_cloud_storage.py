import hashlib
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from components import require
from storage_emulator import storage_server

from transforms.errors import (
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
    InvalidUri,
    UnusableBucket,
)
from transforms.storage import cloud_storage
from transforms.storage.cloud_storage import check_readable, list_objects, read_object, stat_object

require("gcp_storage_emulator", "pip install 'embed-images[dev]'")

#: What a careless client would take for a fragment, a query, an escape or a pattern.
ODD_NAMES = ["a#b.jpg", "a?b=c.jpg", "a%20b.jpg", "a b+c.jpg", "é/ü&*[x].jpg", "ends in/"]


@pytest.fixture(scope="module")
def emulator():
    with storage_server() as server:
        yield server


@pytest.fixture
def server(emulator, monkeypatch):
    """An emulator that refuses nothing, and quick attempts."""
    monkeypatch.setattr(
        cloud_storage, "RETRY", cloud_storage.RETRY.with_delay(0.01, 0.02).with_timeout(0.5)
    )
    emulator.accept()
    emulator.page_size = 1000
    emulator.requests.clear()
    return emulator


@pytest.fixture
def bucket(server):
    """A bucket that no other test has read from, with three objects."""
    name = f"photos-{uuid.uuid4().hex[:8]}"
    for number in range(3):
        server.put(f"album/{number}.jpg", b"photo %d" % number, name)
    return name


def asked(server):
    """The requests for objects; the client also looks once at each bucket, in the background."""
    return [request for request in server.requests if re.search("/o[/?]", request)]


def test_a_list_tells_all_there_is_to_know_in_one_request(server, bucket):
    before = time.time() - 60
    (found,) = list_objects(f"gs://{bucket}/album/1")
    assert len(asked(server)) == 1
    assert found.uri == f"gs://{bucket}/album/1.jpg"
    assert found.size_bytes == 7
    assert found.generation == server.generation("album/1.jpg", bucket)
    assert found.md5 == hashlib.md5(b"photo 1", usedforsecurity=False).hexdigest()
    assert len(bytes.fromhex(found.crc32c)) == 4
    assert before < found.updated < time.time() + 60


def test_a_long_list_comes_in_pages_and_in_the_order_of_names(server, bucket):
    server.page_size = 2
    names = [found.uri.rsplit("/", 1)[1] for found in list_objects(f"gs://{bucket}/")]
    assert names == ["0.jpg", "1.jpg", "2.jpg"]
    assert len(asked(server)) == 2


def test_no_more_objects_than_the_limit_are_asked_for(server, bucket):
    assert len(list(list_objects(f"gs://{bucket}/album/", limit=2))) == 2
    (request,) = asked(server)
    assert "maxResults=2" in request


def test_an_object_is_read_with_its_generation_in_one_request(server, bucket):
    content, generation = read_object(f"gs://{bucket}/album/2.jpg", 7)
    assert content == b"photo 2"
    assert generation == server.generation("album/2.jpg", bucket)
    assert len(asked(server)) == 1


def test_an_empty_object_is_read(server, bucket):
    server.put("empty", b"", bucket)
    assert read_object(f"gs://{bucket}/empty", 10)[0] == b""


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_exact(server, bucket, name):
    server.put(name, b"odd", bucket)
    uri = f"gs://{bucket}/{name}"
    assert [found.uri for found in list_objects(uri)] == [uri]
    assert stat_object(uri).size_bytes == 3
    assert read_object(uri, 3)[0] == b"odd"


def test_a_look_at_an_object_tells_what_a_list_tells(server, bucket):
    (listed,) = list_objects(f"gs://{bucket}/album/1")
    server.requests.clear()
    assert stat_object(listed.uri) == listed
    assert len(asked(server)) == 1


def test_whether_an_object_can_be_read_is_known_after_one_request_for_one_byte(server, bucket):
    server.put("empty", b"", bucket)
    server.put("huge", bytes(30_000_000), bucket)
    for name in ("album/0.jpg", "empty", "huge"):
        server.requests.clear()
        started = time.monotonic()
        check_readable(f"gs://{bucket}/{name}")
        assert time.monotonic() - started < 5
        assert len(asked(server)) == 1


def test_why_an_object_cannot_be_read_is_said_with_what_to_do(server, bucket):
    uri = f"gs://{bucket}/album/0.jpg"
    with pytest.raises(ImageNotFound, match=r"album/9\.jpg"):
        check_readable(f"gs://{bucket}/album/9.jpg")
    server.refuse("GET /download", 403)
    with pytest.raises(UnusableBucket, match=r"album/0\.jpg.*roles/storage\.objectViewer"):
        check_readable(uri)
    server.accept()
    server.refuse("GET /download", 503)
    with pytest.raises(OSError, match="cannot read"):
        check_readable(uri)


def test_one_byte_over_the_limit_is_too_large(server, bucket):
    with pytest.raises(ImageTooLarge, match="more than the 6 bytes"):
        read_object(f"gs://{bucket}/album/0.jpg", 6)


def test_of_a_huge_object_no_more_than_the_limit_is_kept(server, bucket):
    server.put("huge", bytes(30_000_000), bucket)
    kept = cloud_storage._Bounded(1_000_000)
    with pytest.raises(ImageTooLarge):
        cloud_storage._client().bucket(bucket).blob("huge").download_to_file(kept)
    assert len(kept.content()) <= 1_000_000


def test_a_missing_object_is_not_found(bucket):
    for ask in (stat_object, lambda uri: read_object(uri, 100)):
        with pytest.raises(ImageNotFound, match=r"album/9\.jpg"):
            ask(f"gs://{bucket}/album/9.jpg")


@pytest.mark.parametrize(("status", "expected"), [(403, ImageForbidden), (400, InvalidUri)])
@pytest.mark.parametrize("read_before", [True, False])
def test_one_object_that_is_refused_costs_itself(server, bucket, status, expected, read_before):
    if read_before:
        read_object(f"gs://{bucket}/album/0.jpg", 100)
    server.refuse(r"album%2F1\.jpg", status)
    with pytest.raises(expected):
        read_object(f"gs://{bucket}/album/1.jpg", 100)
    assert read_object(f"gs://{bucket}/album/2.jpg", 100)[0] == b"photo 2"


def test_a_bucket_that_does_not_exist_stops_the_job():
    for ask in (stat_object, lambda uri: read_object(uri, 100)):
        with pytest.raises(UnusableBucket, match="there is no bucket gs://no-such-bucket"):
            ask("gs://no-such-bucket/a.jpg")


def test_a_bucket_that_is_forbidden_as_a_whole_stops_the_job(server, bucket):
    server.refuse(bucket, 403)
    with pytest.raises(UnusableBucket, match=r"may not list .* grant .* roles/storage"):
        read_object(f"gs://{bucket}/album/0.jpg", 100)


def test_a_permission_that_is_lost_in_the_middle_stops_the_job(server, bucket):
    """Also where the bucket can still be listed."""
    read_object(f"gs://{bucket}/album/0.jpg", 100)
    server.refuse(rf"/b/{bucket}/o/", 403)
    with pytest.raises(UnusableBucket, match=r"could be read, and now it is forbidden.*grant"):
        read_object(f"gs://{bucket}/album/1.jpg", 100)


def test_an_object_that_is_deleted_after_it_was_read_says_nothing_of_its_bucket(server, bucket):
    read_object(f"gs://{bucket}/album/0.jpg", 100)
    server.delete("album/0.jpg", bucket)
    with pytest.raises(ImageNotFound):
        read_object(f"gs://{bucket}/album/0.jpg", 100)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_faults_are_tried_again(server, bucket, status):
    server.refuse("/o[/?]", status, times=2)
    assert read_object(f"gs://{bucket}/album/0.jpg", 100)[0] == b"photo 0"
    server.refuse("/o[/?]", status, times=2)
    assert len(list(list_objects(f"gs://{bucket}/"))) == 3
    assert len(asked(server)) == 6


def test_a_lasting_fault_is_no_fault_of_the_image(server, bucket):
    server.refuse("^GET", 503)
    with pytest.raises(OSError, match=r"cannot read .*album/0\.jpg"):
        read_object(f"gs://{bucket}/album/0.jpg", 100)
    with pytest.raises(OSError, match="cannot list"):
        list(list_objects(f"gs://{bucket}/"))


def test_bad_credentials_are_no_fault_of_the_image(server, bucket):
    server.refuse("^GET", 401)
    with pytest.raises(OSError, match="give this process credentials"):
        read_object(f"gs://{bucket}/album/0.jpg", 100)


def test_a_missing_or_forbidden_bucket_cannot_be_listed(server, bucket):
    with pytest.raises(FileNotFoundError, match="there is no bucket gs://no-such-bucket"):
        list(list_objects("gs://no-such-bucket/photos/"))
    server.refuse(bucket, 403)
    with pytest.raises(OSError, match=r"may not list .* grant"):
        list(list_objects(f"gs://{bucket}/"))


@pytest.mark.parametrize("uri", ["gs://", "gs:///a.jpg", "gs://bucket", "gs://bucket/caf\udce9"])
def test_what_names_no_object_is_invalid(uri):
    with pytest.raises(InvalidUri):
        read_object(uri, 100)


def test_threads_share_one_client_and_read_at_the_same_time(server, bucket):
    server.delay_seconds = 0.05
    server.largest_in_flight = 0
    start = threading.Barrier(16)

    def read(number):
        start.wait()
        return cloud_storage._client(), read_object(f"gs://{bucket}/album/{number % 3}.jpg", 100)[0]

    try:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(read, range(16)))
    finally:
        server.delay_seconds = 0.0
    assert len({id(client) for client, _ in answers}) == 1
    assert [content for _, content in answers] == [b"photo %d" % (n % 3) for n in range(16)]
    assert server.largest_in_flight > 8
