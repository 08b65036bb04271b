import random
from collections import Counter

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from transforms.records import ImageRef
from transforms.step_parts import pack_in_buckets
from transforms.step_parts.pack_in_buckets import PackInBuckets, unpack


def unpacked(pairs):
    """Return what comes back behind the shuffle, with the bucket that each pair came from."""
    return (
        pairs
        | PackInBuckets()
        | beam.GroupByKey()
        | beam.FlatMapTuple(lambda bucket, packed: [(bucket, *pair) for pair in unpack(packed)])
    )


@pytest.mark.parametrize(("waiting", "packed"), [(50_000, 1_000), (7, 1_000), (50, 3), (1, 1)])
def test_every_pair_comes_back_once_and_all_of_a_key_together(monkeypatch, waiting, packed):
    monkeypatch.setattr(pack_in_buckets, "MAX_WAITING", waiting)
    monkeypatch.setattr(pack_in_buckets, "MAX_PACKED", packed)
    monkeypatch.setattr(pack_in_buckets, "BUCKETS", 5)
    generator = random.Random(0)
    pairs = [(f"key {generator.randrange(40)}", number) for number in range(300)]

    def check(found):
        assert Counter((key, value) for _, key, value in found) == Counter(pairs)
        buckets = {key: {bucket for bucket, of, _ in found if of == key} for key, _ in pairs}
        assert all(len(each) == 1 for each in buckets.values())
        assert len(set.union(*buckets.values())) == 5

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(unpacked(pipeline | beam.Create(pairs)), check)


def test_records_come_back_as_they_were():
    refs = [
        ImageRef("gs://bucket/ä.jpg", 5, 1.5, twins=(ImageRef("b"),)),
        ImageRef("b", checksum="0"),
    ]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pairs = pipeline | beam.Create(refs) | beam.Map(lambda ref: (ref.uri, ref))
        found = unpacked(pairs) | beam.Map(lambda pair: pair[2])
        assert_that(found, equal_to(refs))


def test_many_records_of_one_key_are_not_packed_into_one_element():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pairs = pipeline | beam.Create(range(2_500)) | beam.Map(lambda number: ("key", number))
        sizes = pairs | PackInBuckets() | beam.Map(lambda element: len(list(unpack([element[1]]))))
        assert_that(sizes, equal_to([1_000, 1_000, 500]))
