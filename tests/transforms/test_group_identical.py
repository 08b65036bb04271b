import os
import random
from collections import Counter
from dataclasses import replace

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from transforms import group_identical
from transforms.group_identical import (
    MAX_GROUP_BYTES,
    GroupIdentical,
    OpenGroups,
    content_hint,
    listed_hint,
)
from transforms.records import ImageRef


def local(path, content):
    path.write_bytes(content)
    return ImageRef(str(path), len(content))


def assert_groups(refs, expected):
    """Compare the groups: the URIs of each, the first one first."""
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        groups = pipeline | beam.Create(refs) | GroupIdentical()
        uris = groups | beam.Map(lambda ref: (ref.uri, *(twin.uri for twin in ref.twins)))
        assert_that(uris, equal_to(expected))


def test_local_files_of_the_same_bytes_are_twins(tmp_path):
    names = {"c": b"same", "a": b"same", "b": b"sama", "d": b"of another size"}
    refs = [local(tmp_path / name, content) for name, content in names.items()]
    expected = [
        (f"{tmp_path}/a", f"{tmp_path}/c"),
        (f"{tmp_path}/b",),
        (f"{tmp_path}/d",),
    ]
    assert_groups(refs, expected)


def test_objects_of_the_same_checksum_and_size_are_twins_without_being_read():
    facts = (("b", 5, "x"), ("a", 5, "x"), ("c", 5, "y"), ("d", 6, "x"))
    refs = [ImageRef(f"gs://bucket/{name}", size, checksum=sum_) for name, size, sum_ in facts]
    expected = [("gs://bucket/a", "gs://bucket/b"), ("gs://bucket/c",), ("gs://bucket/d",)]
    assert_groups(refs, expected)


def test_what_the_listing_says_nothing_of_comes_out_by_itself():
    refs = [ImageRef("https://h.invalid/a"), ImageRef("gs://bucket/b", 5), ImageRef("gs://b/c", 5)]
    assert_groups(refs, [(ref.uri,) for ref in refs])


def test_a_file_that_cannot_be_read_comes_out_by_itself(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    names = ("missing", "pipe", "folder", "zero\0byte", "one", "other")
    refs = [ImageRef(f"{tmp_path}/{name}", 4) for name in names]
    (tmp_path / "one").write_bytes(b"same")
    (tmp_path / "other").write_bytes(b"same")
    assert_groups(refs, [*((ref.uri,) for ref in refs[:4]), (refs[4].uri, refs[5].uri)])


def test_a_file_that_no_group_has_room_for_twice_is_not_read(tmp_path):
    assert listed_hint(ImageRef("/a", MAX_GROUP_BYTES // 2)).startswith("size:")
    assert listed_hint(ImageRef("/a", MAX_GROUP_BYTES // 2 + 1)) == "uri:/a"


def test_files_are_told_apart_by_all_of_their_bytes(tmp_path):
    content = random.Random(0).randbytes(300_000)
    first = local(tmp_path / "a", content)
    again = local(tmp_path / "b", content)
    other = local(tmp_path / "c", content[:-1] + bytes([content[-1] ^ 1]))
    assert content_hint(first) == content_hint(again) != content_hint(other)


def groups_of(refs):
    groups = OpenGroups()
    full = [group for ref in refs for group in groups.add("hint", ref)]
    return [*full, *groups.rest()]


def test_a_group_has_no_more_than_256_references():
    groups = groups_of([ImageRef(f"{number:04}", 1) for number in reversed(range(600))])
    assert [1 + len(group.twins) for group in groups] == [256, 256, 88]
    for group in groups:
        uris = [group.uri, *(twin.uri for twin in group.twins)]
        assert uris == sorted(uris)


def test_a_group_has_no_more_than_256_mebibytes():
    groups = groups_of([ImageRef(f"{number}", 100 * 2**20) for number in range(5)])
    assert [1 + len(group.twins) for group in groups] == [2, 2, 1]


@pytest.mark.parametrize("seed", range(3))
def test_every_reference_comes_out_exactly_once_as_it_was(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(group_identical, "MAX_GROUP_REFS", 4)
    generator = random.Random(seed)
    refs = []
    for number in range(300):
        content = bytes([generator.randrange(3)]) * generator.randrange(4)
        ref = local(tmp_path / f"{number}", content)
        kind = generator.randrange(5)
        if kind == 0:
            ref = replace(ref, uri=f"gs://bucket/{number}", checksum=f"{generator.randrange(6)}")
        elif kind == 1:
            ref = ImageRef(f"https://photos.invalid/{number}", known_sha256="s")
        elif kind == 2:
            os.remove(ref.uri)
        refs.append(ref)

    def check(groups):
        out = [one for group in groups for one in (replace(group, twins=()), *group.twins)]
        assert Counter(out) == Counter(refs)
        assert all(len(group.twins) < 4 for group in groups)
        assert any(group.twins for group in groups)

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create(refs) | GroupIdentical(), check)


def test_very_many_references_to_the_same_bytes_are_spread_in_groups():
    count = 20_000
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        numbers = pipeline | beam.Create([0]) | beam.FlatMap(lambda _: range(count))
        refs = numbers | "Refs" >> beam.Map(lambda n: ImageRef(f"gs://b/{n}", 1, checksum="same"))
        sizes = refs | GroupIdentical() | "Sizes" >> beam.Map(lambda ref: 1 + len(ref.twins))
        assert_that(sizes, equal_to([256] * (count // 256) + [count % 256]))
