import gzip

import pytest
from image_examples_files import write_examples
from storage_emulator import storage_emulator, upload
from tfx_bsl.public import tfxio

from transforms.errors import RequestError, UnreadableInput
from transforms.records import CarriedColumn, ImageRef
from transforms.sources.image_examples import (
    ExampleRef,
    check_examples,
    example_files,
    find_examples,
    is_examples,
    one_of_each,
    read_examples,
)

#: SHA-256 of b"abc", an example of FIPS 180-2.
SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def only(path, columns=(), **limits):
    (found,) = find_examples(str(path), columns, **limits)
    return found


def test_the_prefix_tells_examples_from_other_inputs():
    assert is_examples("tfrecord:shards-*")
    assert not is_examples("shards.tfrecord")


@pytest.mark.parametrize(
    ("features", "uri"),
    [
        ({"image/uri": b"gs://b/a.jpg", "image/filename": b"a.jpg"}, "gs://b/a.jpg"),
        ({"image/uri": b"", "image/filename": "ä.jpg".encode()}, "ä.jpg"),
        ({"image/filename": [], "image/source_id": 17}, "17"),
        ({"image/source_id": b""}, f"sha256:{SHA256_OF_ABC}"),
        ({}, f"sha256:{SHA256_OF_ABC}"),
    ],
)
def test_an_image_has_its_name_or_else_that_of_its_bytes(tmp_path, features, uri):
    path = write_examples(tmp_path / "r", [{"image/encoded": b"abc", **features}])
    found = only(path)
    assert (found.ref.uri, found.ref.size_bytes, found.sha256) == (uri, 3, SHA256_OF_ABC)
    (image,) = read_examples([found])
    assert (image.uri, image.content, image.sha256) == (uri, b"abc", SHA256_OF_ABC)


def test_features_are_carried_along(tmp_path):
    features = {
        "image/encoded": b"abc",
        "label": 7,
        "name": "Käse".encode(),
        "score": 0.5,
        "tags": [b"a", b"b"],
        "count": b"12",
        "none": [],
    }
    kinds = {"label": "int64", "score": "float64", "count": "int64"}
    names = ("label", "name", "score", "tags", "count", "none", "absent")
    columns = tuple(CarriedColumn(name, kinds.get(name, "string")) for name in names)
    found = only(write_examples(tmp_path / "r", [features]), columns)
    assert found.ref.origin.carried == (7, "Käse", 0.5, '["a", "b"]', 12, None, None)
    assert next(read_examples([found])).origin == found.ref.origin


def test_a_bad_record_costs_no_other(tmp_path):
    path = write_examples(
        tmp_path / "r",
        [
            b"\xff\xff no example",
            {"label": 1},
            {"image/encoded": 5},
            {"image/encoded": [b"one", b"two"]},
            {"image/encoded": b"abc", "image/uri": b"\xff"},
            {"image/encoded": b"abc", "n": b"many", "image/uri": b"u"},
            {"image/encoded": b"abcdef", "image/uri": b"large"},
            # Features of other types than those of the records before.
            {"image/encoded": b"abc", "label": b"text", "image/uri": b"good"},
        ],
    )
    *bad, good = find_examples(str(path), (CarriedColumn("n", "int64"),), max_bytes=5)
    assert good.ref.uri == "good"
    assert [(entry.uri, type(entry.error).__name__) for entry in bad] == [
        (f"{path}:record 1", "InvalidRow"),
        (f"{path}:record 2", "InvalidRow"),
        (f"{path}:record 3", "InvalidRow"),
        (f"{path}:record 4", "InvalidRow"),
        (f"{path}:record 5", "InvalidUri"),
        ("u", "InvalidColumn"),
        ("large", "ImageTooLarge"),
    ]
    assert "the features are 'label'" in str(bad[1].error)


@pytest.mark.parametrize("name", ["r", "r.gz"])
def test_images_are_read_wherever_they_lie_in_the_file(tmp_path, name):
    contents = [bytes([number]) * 1000 for number in range(50)]
    path = write_examples(tmp_path / name, [{"image/encoded": content} for content in contents])
    found = list(find_examples(str(path)))
    chosen = [found[number] for number in (40, 3, 17)]
    assert [image.content for image in read_examples(chosen)] == [
        contents[number] for number in (3, 17, 40)
    ]


def test_a_record_over_the_limit_is_passed_over_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("transforms.sources.image_examples._OTHER_FEATURES_BYTES", 0)
    path = write_examples(tmp_path / "r", [{"image/encoded": b"x" * 500}, b""])
    large, empty = find_examples(str(path), max_bytes=200)
    assert type(large.error).__name__ == "ImageTooLarge"
    assert type(empty.error).__name__ == "InvalidRow"


def test_of_a_name_twice_the_same_image_is_dropped_and_another_one_fails():
    def found(path, sha256, uri="same"):
        return ExampleRef(ref=ImageRef(uri), sha256=sha256, path=path, offset=0)

    first, bad = one_of_each([found("/b", "1"), found("/c", "2"), found("/a", "1")])
    assert first.path == "/a"
    assert [(entry.uri, type(entry.error).__name__) for entry in bad] == [("same", "InvalidUri")]
    assert "/c" in str(bad[0].error)
    assert "/a" in str(bad[0].error)


def test_what_tfxio_reads_of_the_files_is_what_is_read_here(tmp_path):
    rows = [{"image/encoded": bytes([number]) * 10} for number in range(20)]
    path = write_examples(tmp_path / "r", rows)
    options = tfxio.RecordBatchesOptions(batch_size=7, num_epochs=1, shuffle=False)
    batches = tfxio.TFExampleRecord(str(path), telemetry_descriptors=["t"]).RecordBatches(options)
    expected = [value[0] for batch in batches for value in batch.column(0).to_pylist()]
    images = read_examples(list(find_examples(str(path))))
    assert [image.content for image in images] == expected


def test_a_damaged_file_fails_the_job_by_its_name(tmp_path):
    path = write_examples(tmp_path / "r", [{"image/encoded": b"x" * 1000}] * 3)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UnreadableInput, match=rf"{path} is no TFRecord file, or damaged: record 2"):
        list(find_examples(str(path)))
    zipped = tmp_path / "r.gz"
    zipped.write_bytes(gzip.compress(b"some text that is no record"))
    with pytest.raises(UnreadableInput, match=r"r\.gz is no TFRecord file"):
        list(find_examples(str(zipped)))


def test_a_file_that_changes_between_the_reads_fails_the_job(tmp_path):
    path = write_examples(tmp_path / "r", [{"image/encoded": b"abc"}])
    found = only(path)
    write_examples(path, [{"image/encoded": b"xyz"}])
    with pytest.raises(UnreadableInput, match="has changed"):
        list(read_examples([found]))


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        (None, "there is no file or folder"),
        ([], "there is no record"),
        ([{"image_encoded": b"x"}], "no feature 'image/encoded'; did you mean 'image_encoded'?"),
        ([{"image/encoded": b"x", "lable": 1}], "no feature 'label'; did you mean 'lable'?"),
        ([b"text"], "this is no tf.Example"),
    ],
)
def test_examples_are_checked_before_the_job_starts(tmp_path, records, complaint):
    if records is not None:
        write_examples(tmp_path / "r", records)
    with pytest.raises(RequestError) as refusal:
        check_examples(f"tfrecord:{tmp_path}/r", (CarriedColumn("label"),))
    assert complaint in str(refusal.value)


def test_what_is_no_tfrecord_file_is_refused(tmp_path):
    (tmp_path / "r").write_text("some text that is longer than a header")
    with pytest.raises(RequestError, match="no TFRecord file"):
        check_examples(f"tfrecord:{tmp_path}/r")
    with pytest.raises(RequestError, match="nothing matched"):
        check_examples(f"tfrecord:{tmp_path}/x*")
    with pytest.raises(RequestError, match="download them"):
        check_examples("tfrecord:https://h.invalid/r")


def test_examples_in_a_bucket_are_read(tmp_path):
    write_examples(tmp_path / "r-0", [{"image/encoded": b"abc", "label": 1}])
    with storage_emulator() as bucket:
        upload(tmp_path, f"{bucket}/shards")
        check_examples(f"tfrecord:{bucket}/shards/r-*", (CarriedColumn("label"),))
        (path,) = example_files(f"tfrecord:{bucket}/shards/r-*")
        (image,) = read_examples([only(path)])
        assert image.content == b"abc"
