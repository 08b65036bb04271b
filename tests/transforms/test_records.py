import pickle
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from transforms.records import (
    DecodedImage,
    Embedding,
    Failure,
    ImageInfo,
    ImageRef,
    Preprocessing,
    RawImage,
)

INFO = ImageInfo("/a.jpg", "0" * 64, "JPEG", 10, 20)
RECORDS = [
    ImageRef("/a.jpg", 5, 1.5),
    RawImage("/a.jpg", b"content", "0" * 64),
    INFO,
    DecodedImage(INFO, np.arange(12, dtype=np.uint8).reshape(2, 2, 3)),
    Embedding(INFO, np.arange(4, dtype=np.float32), 1.25),
    Failure("/a.jpg", "ReadImages", "ImageNotFound", "gone", "2026-01-01T00:00:00+00:00"),
    Preprocessing(height=299, width=299),
]
CONTRACT = Preprocessing(height=299, width=299)

#: Another value for each setting of the contract.
OTHERS = {
    "height": 298,
    "width": 298,
    "fit": "pad",
    "kernel": "bicubic",
    "antialias": False,
    "scaled_decoding": "auto",
    "value_range": (-1.0, 1.0),
    "orientation": "ignore",
    "background": (0, 0, 0),
}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_survives_a_pickle_round_trip_and_cannot_be_changed(record):
    copy = pickle.loads(pickle.dumps(record))
    for field in fields(record):
        np.testing.assert_equal(getattr(copy, field.name), getattr(record, field.name))
        with pytest.raises(FrozenInstanceError):
            setattr(record, field.name, None)


def test_the_fingerprint_of_the_default_contract_is_the_one_of_old_outputs():
    """If this fails, outputs written before and after cannot be told to be the same."""
    assert CONTRACT.fingerprint() == "b204f481669184f1"


def test_equal_contracts_have_equal_fingerprints():
    same = Preprocessing(299, 299, value_range=(0, 1), background=[255, 255, 255])
    assert same == CONTRACT
    assert same.fingerprint() == CONTRACT.fingerprint()


def test_every_setting_is_part_of_the_fingerprint():
    assert set(OTHERS) == {field.name for field in fields(Preprocessing)}
    changed = {replace(CONTRACT, **{name: value}).fingerprint() for name, value in OTHERS.items()}
    assert len(changed | {CONTRACT.fingerprint()}) == len(OTHERS) + 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"fit": "stretch"}, "fit is 'stretch'; use one of squash, center_crop, pad"),
        ({"kernel": "cubic"}, "kernel is 'cubic'"),
        ({"scaled_decoding": "on"}, "scaled_decoding is 'on'"),
        ({"orientation": "up"}, "orientation is 'up'"),
        ({"height": 0}, "0 x 299"),
        ({"width": -1}, "299 x -1"),
        ({"kernel": "nearest"}, "cannot antialias"),
        ({"value_range": (1.0, 1.0)}, "value_range"),
        ({"background": (0, 0, 256)}, "background"),
        ({"background": (0, 0)}, "background"),
    ],
)
def test_a_contract_that_means_nothing_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Preprocessing(**{"height": 299, "width": 299, **settings})
