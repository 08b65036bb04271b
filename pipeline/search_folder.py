"""The embeddings in an output folder, as what `search` looks through."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.recorded_run import RecordedRun
from pipeline.search_report import Neighbour
from transforms.errors import RequestError
from transforms.folders.output_contents import is_complete, list_runs
from transforms.folders.output_names import run_folder, run_report_path
from transforms.ledgers.incremental_runs import complete_runs, vector_sets
from transforms.records import Vector
from transforms.search.neighbours import nearest_neighbours
from transforms.search.read_embeddings import read_embeddings
from transforms.storage.file_errors import read_errors_as_request_errors
from transforms.storage.file_listing import storage_path
from transforms.storage.output_storage import open_file


class EmbeddingsFolder:
    """The output of a plain run, of one incremental run, or of all incremental runs.

    Args:
        location: a local path, or a URL such as gs://bucket/out.
    """

    def __init__(self, location: str) -> None:
        self._folder = storage_path(location)

    def reports(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the place and the content of run.json of the newest run of each set of vectors.

        The newest one comes first.

        Raises:
            RequestError: no run is complete, or its run.json cannot be read.
        """
        folder = self._folder
        with read_errors_as_request_errors(f"--in {folder}", folder):
            if list_runs(folder):
                sets = vector_sets(complete_runs(folder))
                if sets:
                    return [
                        (run_report_path(run_folder(folder, made.facts["run_id"])), made.facts)
                        for made in reversed(sets)
                    ]
            elif is_complete(folder):
                path = run_report_path(folder)
                with open_file(path) as file:
                    report = json.loads(file.read())
                if not isinstance(report, dict):
                    raise RequestError(f"{path} holds no JSON object; run the job again")
                return [(path, report)]
        raise RequestError(
            f"--in {folder}: no run has completed there (a complete output has _SUCCESS in it); "
            "name the --output of a run that is done"
        )

    def nearest(
        self, vector: Vector, run: RecordedRun, count: int, *, exact: bool
    ) -> tuple[list[Neighbour], bool]:
        """Return the rows nearest to the vector, and True: every row is compared.

        Raises:
            RequestError: the folder holds no rows, or others than run.json says.
        """
        made_by = run.provenance
        with read_errors_as_request_errors(f"--in {self._folder}", self._folder):
            table = read_embeddings(
                self._folder,
                model_fingerprint=made_by.model_fingerprint,
                preprocess_fingerprint=made_by.preprocess_fingerprint,
                precision=made_by.precision,
            )
        if not len(table):
            raise RequestError(f"--in {self._folder}: it holds no embeddings to search in")
        width = table.vectors.shape[1]
        if width != len(vector):
            raise RequestError(
                f"--in {self._folder}: its vectors have {width:,} values, and the model gives "
                f"{len(vector):,}, though its run.json names this model; run the job again"
            )
        rows, cosines = nearest_neighbours(table.vectors, vector, count)
        found = [
            Neighbour(
                cosine=float(cosine),
                uri=table.uris[row],
                sha256=table.sha256[row],
                format=table.formats[row],
                height=int(table.heights[row]),
                width=int(table.widths[row]),
                carried={name: values[row] for name, values in table.carried.items()},
            )
            for row, cosine in zip(rows, cosines, strict=True)
        ]
        return found, True
