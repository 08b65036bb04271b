"""`WriteDeadLetters`: one line of JSON for each image that failed."""

import json
from dataclasses import asdict, dataclass

import apache_beam as beam
from apache_beam.io import WriteToText

from transforms.folders.output_folder import dead_letters_prefix
from transforms.records import CarriedColumn, Failure
from transforms.sources.carried_columns import convert, to_json_value


@dataclass(eq=False)
class WriteDeadLetters(beam.PTransform):
    """Write each `Failure` under `<folder>/dead_letters/`; return the names of the files.

    One file, also when nothing failed: an empty file says so, a missing one would not. The file
    is a manifest, which tries what failed again and carries along what was carried.

    Example:
        >>> files = failures | WriteDeadLetters("gs://bucket/embeddings")  # doctest: +SKIP
    """

    folder: str
    columns: tuple[CarriedColumn, ...] = ()
    """The carried columns of the job."""

    def expand(self, failures: beam.PCollection[Failure]) -> beam.PCollection[str]:
        """Return the names of the files, once they are all in place."""
        return (
            failures
            | "ToJson" >> beam.Map(to_json_line, self.columns)
            | "Write"
            >> WriteToText(
                dead_letters_prefix(self.folder), file_name_suffix=".jsonl", num_shards=1
            )
        )


def to_json_line(failure: Failure, columns: tuple[CarriedColumn, ...] = ()) -> str:
    """Return the failure as one line of strict JSON, without its end of line.

    Where the job has carried columns, they stand by name under "carried": all of them, or none
    where the image came with none. NaN and the infinities are text there.

    Raises:
        ValueError: the failure carries other values than the columns are.
    """
    line = asdict(failure)
    carried = line.pop("carried")
    if carried and len(carried) != len(columns):
        raise ValueError(
            f"{failure.uri} carries {len(carried)} values, but the job has {len(columns)} columns"
        )
    if columns:
        line["carried"] = {
            column.name: to_json_value(value)
            for column, value in zip(columns, carried, strict=False)
        }
    return json.dumps(line, ensure_ascii=False, allow_nan=False)


def from_json_line(line: str, columns: tuple[CarriedColumn, ...] = ()) -> Failure:
    """Return the failure that `to_json_line` wrote with the same columns.

    Without the columns, what was carried is left out.
    """
    fields = json.loads(line)
    carried = fields.pop("carried", None)
    if not carried:
        return Failure(**fields)
    return Failure(
        **fields, carried=tuple(convert(carried.get(column.name), column) for column in columns)
    )
