import datetime
import json
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from transforms.errors import InvalidColumn
from transforms.records import CarriedColumn
from transforms.sources.carried_columns import (
    RESERVED_NAMES,
    convert,
    parse_column,
    parse_columns,
    to_json_value,
)

UTC = datetime.UTC


def converted(value, kind):
    return convert(value, CarriedColumn("column", kind))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label", CarriedColumn("label", "string")),
        ("label:string", CarriedColumn("label", "string")),
        ("n:int64", CarriedColumn("n", "int64")),
        ("_price:float64", CarriedColumn("_price", "float64")),
        ("In_Stock2:bool", CarriedColumn("In_Stock2", "bool")),
    ],
)
def test_a_column_is_its_name_and_its_type_or_a_string(text, expected):
    assert parse_column(text) == expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("price:float", "did you mean price:float64"),
        ("n:integer", "did you mean n:int64"),
        ("n:INT", "did you mean n:int64"),
        ("flag:boolean", "did you mean flag:bool"),
        ("label:strng", "did you mean label:string"),
        ("label:", "The types are string, int64, float64, bool"),
        ("label:geography", "The types are string"),
    ],
)
def test_an_unknown_type_is_refused_with_the_nearest_one(text, hint):
    with pytest.raises(ValueError, match="unknown type") as refusal:
        parse_column(text)
    assert hint in str(refusal.value)


@pytest.mark.parametrize("name", ["", "1st", "two words", "prix-réel", "a" * 301, "a.b", " label"])
def test_a_name_that_bigquery_would_not_take_is_refused(name):
    with pytest.raises(ValueError, match="none that BigQuery takes"):
        parse_column(name)


@pytest.mark.parametrize("name", [*RESERVED_NAMES, "URI", "Embedded_At"])
def test_the_names_of_the_output_row_are_refused_in_any_case(name):
    with pytest.raises(ValueError, match="every output has itself"):
        parse_column(f"{name}:int64")


@pytest.mark.parametrize("name", ["_PARTITIONTIME", "_table_suffix", "_File_Name", "__root__x"])
def test_names_that_bigquery_keeps_to_itself_are_refused(name):
    with pytest.raises(ValueError, match="keeps to itself"):
        parse_column(name)


@pytest.mark.parametrize("texts", [("label", "label:int64"), ("label", "LABEL")])
def test_a_column_is_named_once(texts):
    with pytest.raises(ValueError, match="same name"):
        parse_columns(texts)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("cat", "string", "cat"),
        ("", "string", ""),
        (" padded ", "string", " padded "),
        (7, "string", "7"),
        (0.1, "string", "0.1"),
        (float("-inf"), "string", "-Infinity"),
        (True, "string", "true"),
        ("Zürich".encode(), "string", "Zürich"),
        (Decimal("1.50"), "string", "1.50"),
        (datetime.date(2026, 1, 2), "string", "2026-01-02"),
        (datetime.time(3, 4, 5), "string", "03:04:05"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "string", "2026-01-02T03:04:05+00:00"),
        ("42", "int64", 42),
        (" -7 ", "int64", -7),
        ("3.0", "int64", 3),
        (3.0, "int64", 3),
        (Decimal("3"), "int64", 3),
        ("", "int64", None),
        (str(2**63 - 1), "int64", 2**63 - 1),
        (-(2**63), "int64", -(2**63)),
        ("0.5", "float64", 0.5),
        (".5e3", "float64", 500.0),
        (2, "float64", 2.0),
        (Decimal("0.25"), "float64", 0.25),
        ("-Infinity", "float64", -math.inf),
        (math.inf, "float64", math.inf),
        ("", "float64", None),
        (True, "bool", True),
        ("False", "bool", False),
        ("TRUE ", "bool", True),
        ("", "bool", None),
    ],
)
def test_a_value_becomes_one_of_the_type(value, kind, expected):
    result = converted(value, kind)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize("kind", ["string", "int64", "float64", "bool"])
def test_null_stays_null(kind):
    assert converted(None, kind) is None
    assert converted(pa.scalar(None, pa.int32()), kind) is None


@pytest.mark.parametrize("value", ["nan", "NaN", math.nan, Decimal("NaN"), pa.scalar(math.nan)])
def test_a_float64_may_be_nan(value):
    assert math.isnan(converted(value, "float64"))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("cat", "int64"),
        ("3.5", "int64"),
        (3.5, "int64"),
        ("1_000", "int64"),
        ("٣", "int64"),
        (2**63, "int64"),
        (str(-(2**63) - 1), "int64"),
        ("9" * 5000, "int64"),
        (math.nan, "int64"),
        (math.inf, "int64"),
        ("NaN", "int64"),
        (True, "int64"),
        ([1], "int64"),
        ("1,5", "float64"),
        ("1_0.5", "float64"),
        ("1e999", "float64"),
        (10**400, "float64"),
        (Decimal("1e999"), "float64"),
        (False, "float64"),
        ({"a": 1}, "float64"),
        (datetime.date(2026, 1, 2), "float64"),
        ("yes", "bool"),
        ("1", "bool"),
        (1, "bool"),
        (b"\xff", "string"),
        ("\ud800", "string"),
        ("caf\udce9", "string"),
        (["\ud800"], "string"),
        (pa.scalar(2**62, pa.timestamp("s")), "string"),
    ],
)
def test_a_value_that_is_none_of_the_type_is_refused_and_shown(value, kind):
    with pytest.raises(InvalidColumn, match=f"column column holds .* no {kind}: write") as refusal:
        converted(value, kind)
    message = str(refusal.value)
    assert repr(value)[:15].encode("utf-8", "backslashreplace").decode() in message
    assert len(message) < 250


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(InvalidColumn) as refusal:
        converted("x" * 10_000_000, "bool")
    assert len(str(refusal.value)) < 250


def test_what_is_nested_becomes_strict_json():
    value = {"tags": ["a", None, math.nan], "raw": b"\xff", "day": datetime.date(2026, 1, 2)}
    assert json.loads(converted(value, "string")) == {
        "tags": ["a", None, "NaN"],
        "raw": "/w==",
        "day": "2026-01-02",
    }


def test_scalars_of_arrow_and_numpy_are_taken_as_what_they_hold():
    assert converted(pa.scalar(5, pa.uint8()), "int64") == 5
    assert converted(pa.scalar({"a": [1]}), "string") == '{"a": [1]}'
    assert converted(np.int64(5), "int64") == 5
    assert converted(np.float32(0.5), "float64") == 0.5
    assert converted(np.bool_(True), "bool") is True
    assert converted(np.array([1, 2]), "string") == "[1, 2]"
    nanoseconds = pa.scalar(1_700_000_000_123_456_789, pa.timestamp("ns", "UTC"))
    assert converted(nanoseconds, "string") == "2023-11-14T22:13:20.123456789+00:00"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.5, None])
def test_a_number_survives_strict_json(value):
    line = json.dumps(to_json_value(value), allow_nan=False)
    back = converted(json.loads(line), "float64")
    assert back == value or math.isnan(back)
