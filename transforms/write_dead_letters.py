"""`WriteDeadLetters`: one line of JSON for each image that failed."""

import json
from dataclasses import asdict, dataclass

import apache_beam as beam
from apache_beam.io import WriteToText

from transforms.output_folder import dead_letters_prefix
from transforms.records import Failure


@dataclass(eq=False)
class WriteDeadLetters(beam.PTransform):
    """Write each `Failure` under `<folder>/dead_letters/`; return the names of the files.

    One file, also when nothing failed: an empty file says so, a missing one would not.

    Example:
        >>> files = failures | WriteDeadLetters("gs://bucket/embeddings")  # doctest: +SKIP
    """

    folder: str

    def expand(self, failures: beam.PCollection[Failure]) -> beam.PCollection[str]:
        """Return the names of the files, once they are all in place."""
        return (
            failures
            | "ToJson" >> beam.Map(to_json_line)
            | "Write"
            >> WriteToText(
                dead_letters_prefix(self.folder), file_name_suffix=".jsonl", num_shards=1
            )
        )


def to_json_line(failure: Failure) -> str:
    """Return the failure as one line of JSON, without its end of line."""
    return json.dumps(asdict(failure), ensure_ascii=False)


def from_json_line(line: str) -> Failure:
    """Return the failure that `to_json_line` wrote."""
    return Failure(**json.loads(line))
