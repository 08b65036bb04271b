"""Carried columns: what they may be called, and how a value of any input becomes one of theirs."""

import base64
import datetime
import difflib
import json
import math
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, get_args

import numpy as np

from transforms.errors import InvalidColumn
from transforms.records import CarriedColumn, CarriedValue, ColumnKind

#: The columns that every output row has itself.
RESERVED_NAMES = (
    *("uri", "sha256", "generation", "width", "height", "format", "embedding", "model"),
    *("model_fingerprint", "preprocess_fingerprint", "precision", "run_id", "embedded_at"),
    *("logits", "classes"),
)

#: What BigQuery keeps to itself, in any case:
#: https://cloud.google.com/bigquery/docs/schemas#column_names
_RESERVED_PREFIXES = (
    *("_table_", "_file_", "_partition", "_row_timestamp", "__root__", "_colidentifier"),
    "_change_",
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")

#: Spreadsheets and data frames write a whole number as 3.0 where other rows have none.
_WHOLE_NUMBER = re.compile(r"([+-]?[0-9]+)(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)

_INT64 = range(-(2**63), 2**63)

#: So much of a value is quoted in a message.
_SHOWN_CHARACTERS = 80

_ADVICE: dict[ColumnKind, str] = {
    "string": "write it as text",
    "int64": "write a whole number within 64 bits",
    "float64": "write a number such as 0.5, NaN or Infinity",
    "bool": "write true or false",
}


def parse_column(text: str) -> CarriedColumn:
    """Return the column that `name` (of strings) or `name:type` stands for.

    The name has to be one that BigQuery takes for a column, and none of the output row's own;
    both are compared without regard to case, as BigQuery does.

    Raises:
        ValueError: the type is unknown, or the name cannot be that of a carried column.

    Example:
        >>> parse_column("price:float64")
        CarriedColumn(name='price', kind='float64')
    """
    name, colon, kind = text.partition(":")
    kinds = get_args(ColumnKind)
    if colon and kind not in kinds:
        # What other languages call these types.
        other_names = {"str": "string", "text": "string", "boolean": "bool", "double": "float64"}
        other_names |= {"float": "float64", "number": "float64", "integer": "int64", "int": "int64"}
        wanted = kind.strip().lower()
        near = difflib.get_close_matches(wanted, kinds, 1, cutoff=0.5)
        hint = other_names.get(wanted) or (near[0] if near else None)
        raise ValueError(
            f"the column {text!r} is of the unknown type {kind!r}; "
            + (f"did you mean {name}:{hint}? " if hint else "")
            + f"The types are {', '.join(kinds)}"
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the column name {name!r} is none that BigQuery takes; use letters, digits and "
            "underscores, at most 300, that do not begin with a digit"
        )
    if name.lower() in RESERVED_NAMES:
        raise ValueError(
            f"the column name {name!r} is that of a column which every output has itself; give "
            "the column of the input another name"
        )
    if name.lower().startswith(_RESERVED_PREFIXES):
        raise ValueError(
            f"the column name {name!r} begins with what BigQuery keeps to itself; give the column "
            "of the input another name"
        )
    return CarriedColumn(name, kind if colon else "string")  # type: ignore[arg-type]


def parse_columns(texts: Iterable[str]) -> tuple[CarriedColumn, ...]:
    """Return the columns that `parse_column` makes of the texts, in their order.

    Raises:
        ValueError: as `parse_column`, or two names differ in nothing but case.

    Example:
        >>> [column.kind for column in parse_columns(["label", "price:float64"])]
        ['string', 'float64']
    """
    columns = tuple(map(parse_column, texts))
    seen: dict[str, str] = {}
    for column in columns:
        if (earlier := seen.get(column.name.lower())) is not None:
            raise ValueError(
                f"the columns {earlier!r} and {column.name!r} have the same name, as BigQuery "
                "compares them without regard to case; name each once"
            )
        seen[column.name.lower()] = column.name
    return columns


def convert(value: Any, column: CarriedColumn) -> CarriedValue:
    """Return a value of the input as one of the column's type; None stays None, which is null.

    - Text, as CSV has it, is read as the type; empty text is null, but for a string column.
    - A number fits `int64` if it is whole and within its range, and `float64` if it is within
      the range, or NaN or infinite. `true` and `false` (in any case) fit `bool`; 0 and 1 do not.
    - Any scalar fits `string`: numbers as Python prints them, dates and times in ISO 8601, bytes
      that are UTF-8 as the text; what is nested becomes JSON, in which other bytes are base64.
    - Scalars of Arrow and NumPy are taken as what they hold.

    Raises:
        InvalidColumn: the value is none of the type.

    Example:
        >>> convert("3.0", CarriedColumn("count", "int64"))
        3
    """
    try:
        plain = _plain(value)
        return None if plain is None else _CONVERTERS[column.kind](plain)
    except (ValueError, OverflowError) as error:
        raise InvalidColumn(
            f"the column {column.name} holds {_shown(value)}, which is no {column.kind}: "
            f"{_ADVICE[column.kind]}"
            + ("" if column.kind == "string" else f", or carry it as {column.name}:string")
        ) from error


def to_json_value(value: CarriedValue) -> CarriedValue:
    """Return the value as strict JSON can hold it: NaN and the infinities become text.

    `convert` makes the number of it again.

    Example:
        >>> to_json_value(float("inf"))
        'Infinity'
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _plain(value: Any) -> Any:
    """Return the Python value that a scalar of Arrow or NumPy holds, and all others as they are."""
    if hasattr(value, "as_py"):
        value = value.as_py()
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _to_string(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        text = json.dumps(_nested(value), ensure_ascii=False, allow_nan=False)
    else:
        text = _scalar_text(value)
    # Half of a surrogate pair, or what stands for a byte that is no UTF-8: no output can hold it.
    text.encode()
    return text


def _scalar_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(to_json_value(value))
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


def _nested(value: Any) -> Any:
    """Return the value as strict JSON can hold it."""
    if isinstance(value, dict):
        return {_scalar_text(key): _nested(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_nested(inner) for inner in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if value is None or isinstance(value, bool | int | float):
        return to_json_value(value)
    return _scalar_text(value)


def _to_int64(value: Any) -> int | None:
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if (match := _WHOLE_NUMBER.fullmatch(text)) is None:
            raise ValueError("no whole number")
        number = int(match[1])
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("no number")
    else:
        number = int(value)
        if number != value:
            raise ValueError("no whole number")
    if number not in _INT64:
        raise OverflowError("outside of 64 bits")
    return number


def _to_float64(value: Any) -> float | None:
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if _NOT_FINITE.fullmatch(text):
            return float(text)
        if not _NUMBER.fullmatch(text):
            raise ValueError("no number")
        number = float(text)
    elif isinstance(value, float):
        return value
    elif isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("no number")
    else:
        number = float(value)
        if isinstance(value, Decimal) and not value.is_finite():
            return number
    if math.isinf(number):
        raise OverflowError("too large for a float64")
    return number


def _to_bool(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ValueError("no truth value")
    text = value.strip().lower()
    if not text:
        return None
    if text not in ("true", "false"):
        raise ValueError("no truth value")
    return text == "true"


_CONVERTERS = {
    "string": _to_string,
    "int64": _to_int64,
    "float64": _to_float64,
    "bool": _to_bool,
}


def _shown(value: Any) -> str:
    # Cut first: a megabyte need not be quoted to show its beginning.
    shown = repr(value[:_SHOWN_CHARACTERS] if isinstance(value, str | bytes) else value)
    if len(shown) > _SHOWN_CHARACTERS or (
        isinstance(value, str | bytes) and len(value) > _SHOWN_CHARACTERS
    ):
        shown = shown[:_SHOWN_CHARACTERS] + "..."
    # A message is written to UTF-8 files.
    return shown.encode("utf-8", "backslashreplace").decode()
