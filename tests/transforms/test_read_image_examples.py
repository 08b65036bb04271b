import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.util import assert_that, equal_to
from image_examples_files import write_examples

from transforms import read_image_examples
from transforms.read_image_examples import ReadImageExamples
from transforms.records import CarriedColumn

LABEL = CarriedColumn("label", "int64")


def row(content, **features):
    return {"image/encoded": content, **{f"image/{name}": v for name, v in features.items()}}


def test_every_record_is_an_image_or_a_failure_and_each_name_comes_once(tmp_path):
    write_examples(
        tmp_path / "r-0",
        [row(b"a", uri=b"a") | {"label": 1}, row(b"b", uri=b"b"), row(b"c", uri=b"same")],
    )
    write_examples(
        tmp_path / "r-1.gz",
        [row(b"c", uri=b"same"), row(b"other", uri=b"same"), b"\xff", row(b"x" * 100)],
    )
    pipeline = beam.Pipeline(runner="FnApiRunner")
    # The second pattern names a file again.
    inputs = (f"tfrecord:{tmp_path}/r-*", f"tfrecord:{tmp_path}/r-0")
    images = pipeline | ReadImageExamples(inputs, (LABEL,), max_bytes=50)
    assert_that(
        images.ok
        | "Key" >> beam.Map(lambda image: (image.uri, image.content, image.origin.carried)),
        equal_to([("a", b"a", (1,)), ("b", b"b", (None,)), ("same", b"c", (None,))]),
        label="Images",
    )
    assert_that(
        images.refs | "Uris" >> beam.Map(lambda ref: (ref.uri, ref.size_bytes)),
        equal_to([("a", 1), ("b", 1), ("same", 1)]),
        label="Refs",
    )
    assert_that(
        images.failed | "Errors" >> beam.Map(lambda failure: (failure.stage, failure.error)),
        equal_to(
            [
                ("ReadImageExamples", "InvalidUri"),
                ("ReadImageExamples", "InvalidRow"),
                ("ReadImageExamples", "ImageTooLarge"),
            ]
        ),
        label="Failures",
    )
    assert_that(images.complete, equal_to([True]), label="Complete")
    result = pipeline.run()
    metrics = result.metrics().query(MetricsFilter().with_name("duplicates-dropped"))
    assert [metric.committed for metric in metrics["counters"]] == [1]


def test_a_file_is_read_in_stretches(tmp_path, monkeypatch):
    monkeypatch.setattr("transforms.sources.image_examples._STRETCH_BYTES", 500)
    contents = [bytes([number]) * 200 for number in range(30)]
    write_examples(tmp_path / "r", [row(content) for content in contents])
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        images = pipeline | ReadImageExamples((f"tfrecord:{tmp_path}/r",))
        assert_that(images.ok | beam.Map(lambda image: image.content), equal_to(contents))


def test_an_image_that_the_runner_loses_fails_the_job(tmp_path, monkeypatch):
    write_examples(tmp_path / "r", [row(b"a"), row(b"a")])
    monkeypatch.setattr(read_image_examples, "len", lambda group: 1, raising=False)
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | ReadImageExamples((f"tfrecord:{tmp_path}/r",))
    with pytest.raises(Exception, match="listed 2 images, but the runner handed on 1"):
        pipeline.run()


def test_no_inputs_are_refused_when_the_step_is_built():
    with pytest.raises(ValueError, match="inputs is empty"):
        ReadImageExamples(())
