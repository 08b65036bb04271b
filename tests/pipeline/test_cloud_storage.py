"""The command with gs:// inputs and outputs, against a Cloud Storage emulator on loopback."""

import json

import google_crc32c
import pytest
from components import require
from run_counts import run_counts
from sample_images import corrupt_images, jpeg_bytes
from storage_emulator import storage_server
from tiny_models import save_tiny_model

from pipeline.__main__ import main
from transforms.errors import ImageNotFound
from transforms.folders.output_folder import is_complete, stale_files
from transforms.list_images import list_input
from transforms.records import ImageRef
from transforms.search.read_embeddings import read_embeddings
from transforms.sources.image_reading import read_image
from transforms.storage.file_listing import list_files, stat_ref

require("gcp_storage_emulator", "pip install 'embed-images[dev]'")


@pytest.fixture(scope="module")
def bucket():
    """A bucket with ten photographs in two folders, a corrupt one, and other objects."""
    with storage_server() as server:
        put, address = server.put, server.address
        for number in range(10):
            put(f"photos/album{number % 2}/{number}.jpg", jpeg_bytes(seed=number))
        put("photos/corrupt.jpg", corrupt_images()["truncated JPEG"])
        put("photos/notes.txt", b"no image")
        put("photos/.hidden/x.jpg", jpeg_bytes())
        put("photos/folder/", b"")
        put(
            "list.txt",
            f"photos/album0/0.jpg\n{address}/photos/album1/1.jpg\nmissing.jpg\n".encode(),
        )
        yield address


def names(bucket, location, **options):
    return sorted(
        file.ref.uri.removeprefix(f"{bucket}/")
        for file in list_files(location, **options)
        if file.is_image
    )


ALL = sorted([*(f"photos/album{n % 2}/{n}.jpg" for n in range(10)), "photos/corrupt.jpg"])


@pytest.mark.parametrize("suffix", ["/photos", "/photos/"])
def test_a_prefix_stands_for_its_visible_images(bucket, suffix):
    assert names(bucket, bucket + suffix) == ALL


@pytest.mark.parametrize("suffix", ["", "/"])
def test_a_whole_bucket_can_be_named(bucket, suffix):
    assert set(ALL) <= set(names(bucket, bucket + suffix))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/photos/*.jpg", ["photos/corrupt.jpg"]),
        ("/photos/**/*.jpg", sorted([*ALL, "photos/.hidden/x.jpg"])),
        ("/photos/album0/[0-4].jpg", [f"photos/album0/{n}.jpg" for n in (0, 2, 4)]),
        ("/photos/album0/0.jpg", ["photos/album0/0.jpg"]),
    ],
)
def test_patterns_and_objects(bucket, pattern, expected):
    assert names(bucket, bucket + pattern) == expected


def test_a_listing_knows_the_sizes(bucket):
    (file,) = list_files(f"{bucket}/photos/corrupt.jpg")
    assert file.ref.size_bytes == len(corrupt_images()["truncated JPEG"])


def test_a_listing_knows_the_version_and_the_checksum_of_an_object(bucket):
    (file,) = list_files(f"{bucket}/photos/corrupt.jpg")
    content = corrupt_images()["truncated JPEG"]
    assert file.ref.checksum == f"crc32c:{google_crc32c.value(content):08x}"
    assert int(file.ref.origin.generation) > 0
    assert read_image(file.ref).origin == file.ref.origin
    assert stat_ref(file.ref.uri) == file.ref
    assert stat_ref(f"{bucket}/missing.jpg") == ImageRef(f"{bucket}/missing.jpg")


@pytest.mark.parametrize("name", ["x[1]*.jpg", "year [2024]?/x#1.jpg"])
def test_an_object_whose_name_looks_like_a_pattern_is_taken_as_it_is(name):
    with storage_server() as server:
        server.put(name, b"x")
        server.put("x1.jpg", b"x")
        folder = name.split("/")[0]
        for location in (name, folder):
            found = [file.ref.uri for file in list_files(f"{server.address}/{location}")]
            assert found == [f"{server.address}/{name}"]


def test_a_bucket_that_may_not_be_listed_is_an_error():
    with storage_server() as server:
        server.refuse("/o[/?]", 403)
        with pytest.raises(OSError, match=r"may not list .*grant"):
            list(list_files(f"{server.address}/photos"))


def test_a_prefix_without_objects_is_an_error(bucket):
    with pytest.raises(FileNotFoundError, match="no object or prefix"):
        list(list_files(f"{bucket}/nothing"))


def test_a_limit_bounds_what_is_asked_for(bucket):
    assert len(names(bucket, f"{bucket}/photos/album0", limit=2)) == 2


def test_the_relative_entries_of_a_list_are_taken_from_its_folder(bucket):
    assert [file.ref.uri for file in list_input(f"@{bucket}/list.txt")] == [
        f"{bucket}/photos/album0/0.jpg",
        f"{bucket}/photos/album1/1.jpg",
        f"{bucket}/missing.jpg",
    ]


def test_an_object_is_read_and_a_missing_one_is_not_found(bucket):
    assert read_image(ImageRef(f"{bucket}/photos/album0/0.jpg")).content == jpeg_bytes(seed=0)
    with pytest.raises(ImageNotFound):
        read_image(ImageRef(f"{bucket}/photos/missing.jpg"))


def test_the_whole_job_from_bucket_to_bucket(bucket, tmp_path, capsys):
    model = save_tiny_model(tmp_path / "model")
    output = f"{bucket}/out"
    arguments = ["run", "--input", f"{bucket}/photos", "--output", output, "--model", model]
    assert main(arguments) == 0
    table = read_embeddings(output)
    assert sorted(table.uris) == [f"{bucket}/{name}" for name in ALL if "corrupt" not in name]
    assert is_complete(output)

    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--set", "output.shards=3"]) == 0
    assert len(read_embeddings(output).uris) == 10
    shards = [path for path in stale_files(output) if "/embeddings-" in path]
    assert len(shards) == 3


def test_a_bucket_that_does_not_exist_is_a_wrong_request(bucket, tmp_path, capsys):
    model = save_tiny_model(tmp_path / "model")
    for flags in (
        ["--input", "gs://no-such-bucket/photos", "--output", str(tmp_path / "out")],
        ["--input", f"{bucket}/photos", "--output", "gs://no-such-bucket/out"],
    ):
        assert main(["run", *flags, "--model", model]) == 2
        error = capsys.readouterr().err
        assert "no-such-bucket" in error
        assert "Traceback" not in error


def test_run_json_lies_in_the_bucket(bucket, tmp_path):
    from apache_beam.io.filesystems import FileSystems

    model = save_tiny_model(tmp_path / "model")
    output = f"{bucket}/out2"
    assert main(["run", "--input", f"{bucket}/photos", "--output", output, "--model", model]) == 0
    with FileSystems.open(f"{output}/run.json") as file:
        report = json.loads(file.read())
    assert report["counts"] == run_counts(found=11, embedded=10, failed=1)
    assert [path.rsplit("/", 1)[0] for path in report["files"]].count(output) >= 1
