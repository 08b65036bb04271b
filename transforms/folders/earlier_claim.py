"""The claim of a job that is at work in a folder, kept while another one asks to begin there.

A run claims its folder before it is submitted. Where the service then refuses it, the job that was
there before is still at work, and must not find that another one has taken its place.
"""

import json
from dataclasses import dataclass
from typing import Self

from transforms.folders.output_contents import read_claim
from transforms.folders.output_names import run_report_path, schema_path
from transforms.storage.output_storage import delete, file_exists, open_file, write_text


@dataclass(frozen=True, slots=True)
class EarlierClaim:
    """What a job that has not ended yet wrote into its folder when it began."""

    folder: str
    claim: str
    """The content of run.json."""
    schema: str | None
    """The content of schema.pbtxt; None: there is none."""

    @classmethod
    def read(cls, folder: str) -> Self | None:
        """Return the claim of the job that is at work in the folder, or None.

        None as well where a run has ended, well or not: nothing waits for its claim.
        """
        claim = _read(run_report_path(folder))
        try:
            running = claim is not None and json.loads(claim).get("status") == "running"
        except (ValueError, AttributeError):
            running = False
        if claim is None or not running:
            return None
        return cls(folder, claim, _read(schema_path(folder)))

    def give_back(self, refused_run_id: str) -> bool:
        """Write the claim back if the refused run's is there; return whether it was.

        Args:
            refused_run_id: of the run that claimed the folder since, and never began.
        """
        if read_claim(self.folder) != refused_run_id:
            return False
        schema = schema_path(self.folder)
        if self.schema is not None:
            write_text(schema, self.schema)
        elif file_exists(schema):
            delete([schema])
        write_text(run_report_path(self.folder), self.claim)
        return True


def _read(path: str) -> str | None:
    if not file_exists(path):
        return None
    with open_file(path) as file:
        return file.read().decode("utf-8", "replace")
