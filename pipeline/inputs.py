"""The inputs of a job: what kinds there are, checked before anything is planned."""

from collections.abc import Iterator

from pipeline.config import EXAMPLES_PREFIX, TABLE_PREFIX, InputConfig, JobConfig
from transforms.bigquery.client import TableName
from transforms.errors import ImageNotFound, RequestError
from transforms.list_images import list_input
from transforms.records import CarriedColumn
from transforms.sources.carried_columns import parse_columns
from transforms.sources.image_examples import check_examples
from transforms.sources.image_query import QueryRows, rows_table, run_image_query, table_query
from transforms.sources.manifest import BadRow, check_manifest, is_manifest
from transforms.storage.file_errors import read_errors_as_request_errors
from transforms.storage.file_listing import is_gs, is_remote

#: So many files of a storage that lists in one go are looked at first: an image among them is
#: enough. What is gs:// or local is listed step by step, and no further than needed.
_CHECKED_FILES = 1000


def tables_of(config: InputConfig) -> tuple[str, ...]:
    """Return the inputs that are BigQuery tables."""
    return tuple(each for each in config.patterns if each.startswith(TABLE_PREFIX))


def examples_of(config: InputConfig) -> tuple[str, ...]:
    """Return the inputs that are TFRecords with images."""
    return tuple(each for each in config.patterns if each.startswith(EXAMPLES_PREFIX))


def files_of(config: InputConfig) -> tuple[str, ...]:
    """Return the inputs that name images, or files that list them."""
    others = {*tables_of(config), *examples_of(config)}
    return tuple(each for each in config.patterns if each not in others)


def carried_columns(config: InputConfig) -> tuple[CarriedColumn, ...]:
    """Return the columns that go along from the inputs into every output.

    Raises:
        RequestError: a name or a type cannot be used.
    """
    try:
        columns = parse_columns(config.carry)
    except ValueError as error:
        raise RequestError(f"input.carry: {error}") from error
    uri_column = config.uri_column
    for column in columns:
        # The same column may be both: then the URI goes along as the input writes it.
        if column.name != uri_column and column.name.lower() == uri_column.lower():
            raise RequestError(
                f"input.carry: the column {column.name!r} has the same name as "
                f"input.uri_column={uri_column}, as BigQuery compares them without regard to "
                f"case; to carry that column write input.carry=[{uri_column}], else rename one"
            )
    return columns


def check_inputs(config: JobConfig, columns: tuple[CarriedColumn, ...]) -> None:
    """Check that each input names at least one image, without listing all of them.

    Tables and queries are left to `run_queries`, because asking them costs.

    Raises:
        RequestError: an input names none, it cannot be listed, or it does not go with the rest.
    """
    examples = examples_of(config.input)
    if examples and (len(examples) < len(config.input.patterns) or config.input.query):
        raise RequestError(
            f"--input {examples[0]}: images inside TFRecords cannot be mixed with other inputs, "
            "whose URIs may clash with theirs; run the job once for each"
        )
    if examples and config.output.incremental:
        raise RequestError(
            f"--input {examples[0]}: images inside TFRecords have no generation that would tell "
            "what is new, so they do not go with --incremental"
        )
    for location in examples:
        check_examples(location, columns)
    for location in files_of(config.input):
        if is_manifest(location):
            check_manifest(location, config.input.uri_column, columns)
        else:
            check_input(location, config.input.extensions)


def check_input(location: str, extensions: tuple[str, ...]) -> None:
    """Check that a file, folder, pattern or list names at least one image.

    Of an input in gs:// one byte of one image is read as well: who may list a bucket may still
    not read it, and then every image would fail.

    Raises:
        RequestError: it names none, or it cannot be listed or read.
    """
    with read_errors_as_request_errors(f"--input {location}", location.removeprefix("@")):
        for uri in _named_images(location, extensions):
            if not is_gs(location) or _can_be_read(uri):
                return
    raise RequestError(f"--input {location}: nothing matched, so there is nothing to embed")


def _named_images(location: str, extensions: tuple[str, ...]) -> Iterator[str]:
    """Yield the URIs of the images that an input names; the first ones may come twice."""
    lists_in_one_go = is_remote(location) and not is_gs(location)
    for limit in (_CHECKED_FILES, None) if lists_in_one_go else (None,):
        for file in list_input(location, extensions, limit):
            # A line of a list that names nothing is a failure of the job, as a missing file is.
            if isinstance(file, BadRow):
                yield file.uri
            elif file.is_image:
                yield file.ref.uri


def _can_be_read(uri: str) -> bool:
    """Return whether an image in a bucket can be read; not so if it is gone since it was listed."""
    # Its client is slow to import.
    from transforms.storage.cloud_storage import check_readable

    try:
        check_readable(uri)
    except ImageNotFound:
        return False
    return True


def run_queries(
    config: JobConfig, run_id: str, columns: tuple[CarriedColumn, ...]
) -> tuple[QueryRows, ...]:
    """Run the query and read the tables among the inputs, once, into tables for the workers.

    Raises:
        RequestError: a query is wrong or not allowed, lacks a column, or gives no URI; or there
            is no dataset for its rows.
    """
    results = []
    for number, (origin, query) in enumerate(queries_of(config.input)):
        # One run may have several; the names of their tables and jobs come from this.
        name = f"{run_id}-{number}"
        result = rows_table(dataset_for_rows(config, origin), name)
        try:
            results.append(run_image_query(query, result, name, config.input.uri_column, columns))
        except RequestError as error:
            raise RequestError(f"{origin}: {error}") from error
    return tuple(results)


def queries_of(config: InputConfig) -> list[tuple[str, str]]:
    """Return the query among the inputs and one for each table among them, with what names it.

    Raises:
        RequestError: an input is no name of a table.
    """
    queries = [(each, table_query(table_name(each))) for each in tables_of(config)]
    if config.query is not None:
        queries.append(("input.query", config.query))
    return queries


def dataset_for_rows(config: JobConfig, origin: str) -> TableName:
    """Return some table of the dataset in which the rows of a query are kept.

    Raises:
        RequestError: the configuration names no dataset.
    """
    if config.input.query_dataset is not None:
        return table_name(f"{config.input.query_dataset}.rows")
    if config.output.table is not None:
        return table_name(config.output.table)
    if origin.startswith(TABLE_PREFIX):
        return table_name(origin)
    raise RequestError(
        f"{origin}: its rows are kept in a table while the job reads them; name a dataset for it "
        "with input.query_dataset=PROJECT.DATASET"
    )


def table_name(text: str) -> TableName:
    """Return the name of a table.

    Raises:
        RequestError: it is none.
    """
    try:
        return TableName.parse(text)
    except ValueError as error:
        raise RequestError(str(error)) from error
