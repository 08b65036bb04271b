import time
from dataclasses import replace

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import BeamAssertException, assert_that, equal_to
from tiny_models import save_tiny_model

from transforms.embed_images import EmbedImages
from transforms.model_handler import HubImageModelHandler, ModelSettings
from transforms.models.model_description import describe_model
from transforms.records import DecodedImage, ImageInfo, Origin, Twin

GREY, RED, BLUE = (120, 130, 140), (255, 0, 0), (0, 0, 255)


def image(name, colour):
    random = np.random.default_rng(len(name))
    pixels = np.full((32, 32, 3), colour, np.uint8)
    if colour == GREY:
        pixels += random.integers(0, 40, pixels.shape, dtype=np.uint8)
    return DecodedImage(ImageInfo(name, "0" * 64, "PNG", 10, 20), pixels)


def handler_of(folder, fault):
    path = save_tiny_model(folder, fault=fault)
    return HubImageModelHandler(
        ModelSettings(path, describe_model(path).fingerprint, 32, 32, (0.0, 1.0), batch_size=4)
    )


def embed(handler, images, check):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        # One bundle, so that good and bad images share batches.
        decoded = pipeline | beam.Create([images]) | beam.FlatMap(lambda batch: batch)
        check(decoded | EmbedImages(handler))


@pytest.mark.parametrize(
    ("fault", "colour", "error"),
    [("reject_red", RED, "RejectedImage"), ("nan_on_blue", BLUE, "InvalidEmbedding")],
)
def test_one_image_that_the_model_cannot_take_costs_one_image(tmp_path, fault, colour, error):
    good = [f"/good{number}" for number in range(6)]
    images = [image(name, GREY) for name in good]
    images.insert(2, image("/bad", colour))

    def check(embedded):
        assert_that(
            embedded.ok | beam.Map(lambda embedding: embedding.info.uri),
            equal_to(good),
            label="Ok",
        )
        assert_that(
            embedded.failed | beam.Map(lambda f: (f.uri, f.stage, f.error)),
            equal_to([("/bad", "EmbedImages", error)]),
            label="Failed",
        )

    embed(handler_of(tmp_path, fault), images, check)


def test_out_of_memory_costs_no_image(tmp_path):
    good = [f"/good{number}" for number in range(7)]

    def check(embedded):
        assert_that(embedded.ok | beam.Map(lambda embedding: embedding.info.uri), equal_to(good))

    handler = handler_of(tmp_path, "out_of_memory_above_2")
    embed(handler, [image(name, GREY) for name in good], check)


def test_another_error_of_the_model_fails_the_job_and_makes_no_dead_letter(tmp_path):
    with pytest.raises(Exception, match=r"FailedPrecondition|FAILED_PRECONDITION|initialized"):
        embed(
            handler_of(tmp_path, "failed_precondition"),
            [image("/good", GREY)],
            lambda embedded: None,
        )


TWINS = tuple(Twin(f"/twin{number}", Origin(str(number), (number,))) for number in range(2))


def with_twins(decoded):
    return replace(decoded, info=replace(decoded.info, origin=Origin("9", (9,)), twins=TWINS))


def test_every_twin_gets_the_vector_and_only_one_has_had_a_place_in_the_batch(tmp_path):
    started = time.time()

    def check_rows(embeddings):
        rows = {row.info.uri: row for row in embeddings}
        if set(rows) != {"/alone", "/first", "/twin0", "/twin1"}:
            raise BeamAssertException(f"{set(rows)}")
        first = rows["/first"]
        for uri, origin in {
            "/first": Origin("9", (9,)),
            **{t.uri: t.origin for t in TWINS},
        }.items():
            row = rows[uri]
            if row.info != replace(first.info, uri=uri, origin=origin, twins=()):
                raise BeamAssertException(f"{row.info}")
            if not np.array_equal(row.vector, first.vector):
                raise BeamAssertException(f"{uri} has another vector")
            if not started <= row.embedded_at <= time.time():
                raise BeamAssertException(f"{uri} is of {row.embedded_at}")
        slots = {uri: row.batch_slots for uri, row in rows.items()}
        if slots["/twin0"] or slots["/twin1"] or not slots["/first"] >= 1.0:
            raise BeamAssertException(f"{slots}")

    embed(
        handler_of(tmp_path, None),
        [image("/alone", GREY), with_twins(image("/first", GREY))],
        lambda embedded: assert_that(embedded.ok, check_rows),
    )


def test_what_the_model_refuses_is_a_failure_of_every_twin(tmp_path):
    def check(embedded):
        assert_that(
            embedded.failed | beam.Map(lambda f: (f.uri, f.error, f.carried)),
            equal_to(
                [
                    (uri, "RejectedImage", (n,))
                    for uri, n in (("/bad", 9), ("/twin0", 0), ("/twin1", 1))
                ]
            ),
        )

    images = [image("/good", GREY), with_twins(image("/bad", RED))]
    embed(handler_of(tmp_path, "reject_red"), images, check)
