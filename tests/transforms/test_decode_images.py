import hashlib

import apache_beam as beam
import numpy as np
from apache_beam.testing.util import BeamAssertException, assert_that, equal_to
from sample_images import corrupt_images, image_bytes, png_bytes

from transforms.decode_images import DecodeImages
from transforms.images.image_codec import decode_image
from transforms.records import Origin, Preprocessing, RawImage, Twin

CONTRACT = Preprocessing(height=24, width=32)


def raw(uri, content):
    return RawImage(uri, content, hashlib.sha256(content).hexdigest())


def test_good_and_bad_images_part_ways_and_keep_what_they_are():
    good = {
        "/a.webp": image_bytes("WEBP", 60, 40),
        "/b.png": png_bytes(40, 60),
    }
    bad = {f"/{name}": content for name, content in corrupt_images().items()}

    def check(decoded):
        for image in decoded:
            expected = decode_image(good[image.info.uri], CONTRACT)
            if not np.array_equal(image.pixels, expected.pixels):
                raise BeamAssertException(f"{image.info.uri} has other pixels")

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        images = pipeline | beam.Create([raw(*item) for item in {**good, **bad}.items()])
        decoded = images | DecodeImages(CONTRACT)
        assert_that(decoded.ok, check, label="Pixels")
        assert_that(
            decoded.ok
            | beam.Map(lambda image: image.info)
            | beam.Map(lambda info: (info.uri, info.format, info.height, info.width, info.sha256)),
            equal_to(
                [
                    ("/a.webp", "WEBP", 40, 60, raw("", good["/a.webp"]).sha256),
                    ("/b.png", "PNG", 60, 40, raw("", good["/b.png"]).sha256),
                ]
            ),
            label="Info",
        )
        assert_that(
            decoded.failed | beam.Map(lambda failure: (failure.uri, failure.stage)),
            equal_to([(uri, "DecodeImages") for uri in bad]),
            label="Failed",
        )


def test_the_pixel_limit_reaches_the_decoder():
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        images = pipeline | beam.Create([raw("/a.png", png_bytes(50, 50))])
        decoded = images | DecodeImages(CONTRACT, max_pixels=2499)
        assert_that(
            decoded.failed | beam.Map(lambda failure: failure.error),
            equal_to(["ImageTooLarge"]),
        )


def test_origin_and_twins_go_along_and_a_failure_is_each_ones():
    twins = (Twin("/twin.png", Origin("7", ("twin",))),)
    good, bad = (
        RawImage(uri, content, "0" * 64, Origin("5", (uri,)), twins)
        for uri, content in (("/good.png", png_bytes(50, 50)), ("/bad.png", b"no image"))
    )
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        decoded = pipeline | beam.Create([good, bad]) | DecodeImages(CONTRACT)
        assert_that(
            decoded.ok | beam.Map(lambda image: (image.info.origin, image.info.twins)),
            equal_to([(good.origin, twins)]),
            label="Ok",
        )
        assert_that(
            decoded.failed | beam.Map(lambda failure: (failure.uri, failure.carried)),
            equal_to([("/bad.png", ("/bad.png",)), ("/twin.png", ("twin",))]),
            label="Failed",
        )
