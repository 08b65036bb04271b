import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from transforms.step_parts.count_all import CountAll


@pytest.mark.parametrize("sizes", [(0,), (3,), (0, 0), (2, 0, 5), (1_000, 2_345)])
def test_the_elements_of_all_collections_are_counted(sizes):
    options = PipelineOptions(["--direct_num_workers=2", "--direct_running_mode=multi_threading"])
    with beam.Pipeline(runner="FnApiRunner", options=options) as pipeline:
        collections = tuple(
            pipeline | f"Make{number}" >> beam.Create(range(size))
            for number, size in enumerate(sizes)
        )
        assert_that(collections | CountAll(), equal_to([sum(sizes)]))


def test_a_count_is_a_number_beside_others():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        numbers = pipeline | beam.Create([1, 2])
        assert_that((numbers, numbers) | CountAll(), equal_to([4]))
