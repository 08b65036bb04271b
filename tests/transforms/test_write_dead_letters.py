import json

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from transforms.records import Failure
from transforms.write_dead_letters import WriteDeadLetters, from_json_line, to_json_line

FAILURE = Failure(
    '/photos/Ä \n"1".jpg', "DecodeImages", "UndecodableImage", "cut short", "2026-01-01T00:00:00"
)


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
