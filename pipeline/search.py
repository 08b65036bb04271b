"""`embed-images search`: the embedded images that are most like an image."""

import os
from collections.abc import Mapping
from typing import Any, Protocol

from pipeline.contact_sheet import contact_sheet, read_pictures, thumbnail
from pipeline.encoder import ImageEncoder
from pipeline.flags import is_table
from pipeline.model_handle import complete_handle
from pipeline.output_layout import request_for_handle
from pipeline.quiet import Console, print_answer
from pipeline.recorded_run import RecordedRun, recorded_run
from pipeline.search_folder import EmbeddingsFolder
from pipeline.search_report import Neighbour, SearchResult, format_json, format_table
from pipeline.search_request import SearchRequest
from transforms.errors import ImageError, JobError, RequestError, UnusableModel
from transforms.images.image_codec import decode_image
from transforms.models.model_description import describe_model
from transforms.models.model_resolution import resolve_model
from transforms.records import ImageRef, Pixels, Vector
from transforms.sources.image_reading import read_image
from transforms.storage.file_listing import is_http, is_remote
from transforms.storage.output_storage import write_text


class Embeddings(Protocol):
    """What can be searched: a folder or a table."""

    def reports(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the place and the content of the newest report of each set, the newest first."""
        ...

    def nearest(
        self, vector: Vector, run: RecordedRun, count: int, *, exact: bool
    ) -> tuple[list[Neighbour], bool]:
        """Return the nearest rows of the run's set, and whether every row was compared."""
        ...


def run_search(request: SearchRequest, console: Console) -> int:
    """Search, print what was found to standard output, and write the page that was asked for.

    Returns:
        The exit status: 0 done, 1 it failed.

    Raises:
        RequestError: the image, the place or the model cannot be used.
    """
    if request.html is not None:
        check_page(request.html)
    try:
        return _search(request, console)
    except (JobError, OSError) as error:
        console.say(f"error: {type(error).__name__}: {' '.join(str(error).split())}")
        return 1


def _search(request: SearchRequest, console: Console) -> int:
    embeddings = _open(request.location, console)
    run, handle = choose_run(embeddings.reports(), request.model)
    try:
        content = read_image(ImageRef(request.image), run.max_bytes, run.http).content
        pixels = decode_image(content, run.preprocessing, run.max_pixels).pixels
    except ImageError as error:
        raise RequestError(f"{request.image}: {type(error).__name__}: {error}") from error
    console.say(f"loading the model {handle}")
    vector = query_vector(pixels, run, handle)
    found, exact = embeddings.nearest(vector, run, request.count, exact=request.exact)
    result = SearchResult(
        image=request.image,
        location=request.location,
        provenance=run.provenance,
        untrained=run.untrained,
        exact=exact,
        neighbours=found,
    )
    print_answer(format_json(result) if request.json_output else format_table(result))
    if request.html is not None:
        pictures = read_pictures(found, run.max_bytes, run.max_pixels, run.http)
        query = thumbnail(content, run.max_pixels)
        return _write_page(request.html, contact_sheet(result, query, pictures), console)
    return 0


def _write_page(path: str, page: str, console: Console) -> int:
    try:
        write_text(path, page)
    except Exception as error:  # The clients of the clouds raise errors of many kinds.
        console.say(f"error: the page cannot be written to {path}: {error}")
        return 1
    console.say(f"the pictures are in {path}")
    return 0


def _open(location: str, console: Console) -> Embeddings:
    if is_table(location):
        try:
            from pipeline.search_table import EmbeddingsTable
        except ImportError as error:
            raise RequestError(
                f"--in {location}: for BigQuery, pip install 'embed-images[gcp]' ({error})"
            ) from error
        return EmbeddingsTable(location, console.say)
    return EmbeddingsFolder(location)


def check_page(path: str) -> None:
    """Refuse a file that a page cannot be written to, before any work.

    Raises:
        RequestError: it is a URL or a folder, or lies in no folder that can be written to.
    """
    if is_http(path):
        raise RequestError(f"--html {path}: a page cannot be written to the web; use a file")
    if is_remote(path):
        return
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise RequestError(f"--html {path}: it is a folder; name a file, such as search.html")
    if not os.path.isdir(folder):
        raise RequestError(f"--html {path}: there is no folder {folder}; create it first")
    if not os.access(folder, os.W_OK):
        raise RequestError(f"--html {path}: this user may not write to {folder}")


def choose_run(
    reports: list[tuple[str, Mapping[str, Any]]], model: str | None
) -> tuple[RecordedRun, str]:
    """Return the run whose vectors are searched, and the handle to load its model by.

    Args:
        reports: place and content of the newest report of each set, the newest first.
        model: the handle that was given; None: that of the newest run is used.

    Raises:
        RequestError: the model is not to be had, or is not the one that made any of the vectors.
    """
    if model is None:
        place, report = reports[0]
        run = recorded_run(report, place)
        handle = run.provenance.model_handle
        try:
            fingerprint = _fingerprint(run, handle)
        except UnusableModel as error:
            raise UnusableModel(
                f"{error}; {place} says that this model made the vectors, so name a copy of it "
                "with --model"
            ) from error
        if fingerprint != run.provenance.model_fingerprint:
            raise RequestError(
                f"the model {handle} has the fingerprint {fingerprint} by now, and the vectors "
                f"were made by {run.provenance.model_fingerprint} ({place}), so they cannot be "
                "compared; name a copy of the model that made them with --model, or run the job "
                "again"
            )
        return run, handle
    handle = complete_handle(model)
    found, known, problems = "", [], []
    for place, report in reports:
        try:
            run = recorded_run(report, place)
            # Another request, such as for logits as well, gives another fingerprint.
            found = _fingerprint(run, handle)
        except RequestError as error:
            problems.append(error)
            continue
        if found == run.provenance.model_fingerprint:
            return run, handle
        known.append(f"{run.provenance.model_fingerprint} ({run.provenance.model_handle})")
    if problems:
        raise problems[0]
    raise RequestError(
        f"the model {handle} has the fingerprint {found}, and the vectors were made by "
        f"{' and '.join(known)}, so they cannot be compared; name a copy of the model that made "
        "them with --model, or leave --model out"
    )


def _fingerprint(run: RecordedRun, handle: str) -> str:
    request = request_for_handle(run.request, handle)
    return describe_model(resolve_model(handle), request).fingerprint


def query_vector(pixels: Pixels, run: RecordedRun, handle: str) -> Vector:
    """Return the vector of the image, made as those of the run were.

    Raises:
        RequestError: the model cannot be loaded, refuses the image, or gives it no direction.
        BrokenModel: the model fails on any image.
    """
    encoder = ImageEncoder(handle, request=run.request, batch_size=1, preprocess=run.preprocess)
    try:
        outputs = encoder.encode(pixels)
    except ImageError as error:
        raise RequestError(f"the model gives no vector for the image: {error}") from error
    vector = outputs[: run.embedding_width]
    if len(vector) != run.embedding_width:
        raise RequestError(
            f"the model {handle} gives {len(vector):,} values, and the vectors have "
            f"{run.embedding_width:,}; run the job again"
        )
    if not vector.any():
        raise RequestError(
            "the model gives nothing but zeros for the image, and such a vector has no direction "
            "that others could be near to"
        )
    return vector
