import json
import math
from dataclasses import replace

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from transforms.records import CarriedColumn, Failure
from transforms.sources.manifest import manifest_parts, read_manifest
from transforms.write_dead_letters import WriteDeadLetters, from_json_line, to_json_line

FAILURE = Failure(
    '/photos/Ä \n"1".jpg', "DecodeImages", "UndecodableImage", "cut short", "2026-01-01T00:00:00"
)

COLUMNS = (
    CarriedColumn("label"),
    CarriedColumn("price", "float64"),
    CarriedColumn("n", "int64"),
    CarriedColumn("ok", "bool"),
)
CARRYING = replace(FAILURE, carried=(None, math.nan, 2**53 + 1, True))


def test_a_dead_letter_is_one_line_that_gives_the_failure_back():
    line = to_json_line(FAILURE)
    assert "\n" not in line
    assert from_json_line(line) == FAILURE


def test_the_dead_letters_lie_in_one_file_and_its_name_comes_back(tmp_path):
    path = tmp_path / "dead_letters" / "dead_letters-00000-of-00001.jsonl"
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        files = pipeline | beam.Create([FAILURE]) | WriteDeadLetters(str(tmp_path))
        assert_that(files, equal_to([str(path)]))
    assert json.loads(path.read_text()) == {
        "uri": '/photos/Ä \n"1".jpg',
        "stage": "DecodeImages",
        "error": "UndecodableImage",
        "message": "cut short",
        "failed_at": "2026-01-01T00:00:00",
    }


def test_no_failures_give_an_empty_file(tmp_path):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([]) | WriteDeadLetters(str(tmp_path))
    (path,) = (tmp_path / "dead_letters").iterdir()
    assert path.read_bytes() == b""


def test_a_dead_letter_names_what_was_carried_and_gives_it_back():
    line = to_json_line(CARRYING, COLUMNS)
    assert json.loads(line)["carried"] == {
        "label": None,
        "price": "NaN",
        "n": 2**53 + 1,
        "ok": True,
    }
    back = from_json_line(line, COLUMNS)
    assert math.isnan(back.carried[1])
    assert replace(back, carried=()) == FAILURE
    assert (back.carried[0], *back.carried[2:]) == (None, 2**53 + 1, True)


def test_an_image_that_came_with_nothing_to_carry_says_so():
    line = to_json_line(FAILURE, COLUMNS)
    assert json.loads(line)["carried"] == {}
    assert from_json_line(line, COLUMNS) == FAILURE


def test_values_without_their_columns_are_refused():
    with pytest.raises(ValueError, match="carries 4 values, but the job has 0 columns"):
        to_json_line(CARRYING)


def test_dead_letters_are_a_manifest_of_what_to_try_again(tmp_path):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        failures = pipeline | beam.Create([CARRYING])
        _ = failures | WriteDeadLetters(str(tmp_path), COLUMNS)
    (part,) = manifest_parts(f"@{tmp_path}/dead_letters/*.jsonl")
    (ref,) = read_manifest(part, columns=COLUMNS)
    assert ref.uri == FAILURE.uri
    assert repr(ref.origin.carried) == repr(CARRYING.carried)
