"""The columns of the table of embeddings in BigQuery, and how a table differs from them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from google.cloud.bigquery import SchemaField

from transforms.formats.output_features import CLASS_INDEX, LOGITS, feature_widths
from transforms.records import CarriedColumn, ColumnKind, OutputLayout

# Name and type of the columns that every table has, and what they hold. None is REQUIRED: a load
# job takes no Parquet column that may be null, as all of Arrow's, into such a one.
_COLUMNS = (
    ("uri", "STRING", "absolute path or URL of the image"),
    ("sha256", "STRING", "of the file, 64 hexadecimal digits"),
    ("generation", "STRING", "which version of the file it was; null where nothing tells"),
    ("width", "INT64", "of the image in pixels, after its orientation was applied"),
    ("height", "INT64", "of the image in pixels, after its orientation was applied"),
    ("format", "STRING", "JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF or HEIF"),
    ("embedding", "FLOAT64", "the vector; empty where no embedding was asked for"),
    ("model", "STRING", "handle of the model"),
    ("model_fingerprint", "STRING", "the same vectors from the same pixels"),
    ("preprocess_fingerprint", "STRING", "the same pixels from the same file"),
    ("precision", "STRING", "in which the model computed"),
    ("run_id", "STRING", "the run that wrote the row"),
    ("embedded_at", "TIMESTAMP", "when the vector was made"),
)
_CLASS_FIELDS = (
    SchemaField("index", "INT64"),
    SchemaField("probability", "FLOAT64"),
    SchemaField("label", "STRING"),
)
_CARRIED_TYPES: dict[ColumnKind, str] = {
    "string": "STRING",
    "int64": "INT64",
    "float64": "FLOAT64",
    "bool": "BOOL",
}

#: The columns of the table with one row for each run.
RUNS_SCHEMA = tuple(
    SchemaField(name, kind, description=says)
    for name, kind, says in (
        ("run_id", "STRING", "as in the rows that the run wrote"),
        ("status", "STRING", "complete, failed, or merging while its rows are on their way"),
        ("started_at", "TIMESTAMP", None),
        ("finished_at", "TIMESTAMP", None),
        ("found", "INT64", "images that the inputs named: skipped + embedded + failed"),
        ("skipped", "INT64", "not embedded, because the table held them already"),
        ("embedded", "INT64", "rows written"),
        ("failed", "INT64", "images in the dead letters"),
        ("gone", "INT64", "images of earlier runs that the inputs no longer hold"),
        ("pruned", "INT64", "those of them whose rows were deleted"),
        ("model", "STRING", "handle of the model"),
        ("model_fingerprint", "STRING", None),
        ("preprocess_fingerprint", "STRING", None),
        ("precision", "STRING", None),
        ("report", "STRING", "the run's run.json"),
    )
)

# The API answers with the names of legacy SQL.
_STANDARD_NAMES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}
# https://cloud.google.com/bigquery/docs/reference/standard-sql/data-definition-language
_WIDENS_TO_FLOAT64 = ("INT64", "NUMERIC")


@dataclass(frozen=True, slots=True)
class SchemaProblem:
    """What keeps the rows of a job from fitting one column of a table."""

    says: str
    mended_by: tuple[str, ...]
    """SQL statements."""


def table_schema(layout: OutputLayout, columns: Sequence[CarriedColumn]) -> list[SchemaField]:
    """Return the columns of a table for these outputs.

    Args:
        layout: what is written of each vector; the column `embedding` is there in any case.
        columns: what goes along from the input.

    Example:
        >>> [field.name for field in table_schema(OutputLayout(8), [])][:3]
        ['uri', 'sha256', 'generation']
    """
    fields = [
        SchemaField(name, kind, "REPEATED" if name == "embedding" else "NULLABLE", description=says)
        for name, kind, says in _COLUMNS
    ]
    widths = feature_widths(layout)
    if LOGITS in widths:
        says = "one value for each class"
        fields.append(SchemaField("logits", "FLOAT64", "REPEATED", description=says))
    if CLASS_INDEX in widths:
        says = "the likeliest classes, the likeliest first"
        fields.append(
            SchemaField("classes", "RECORD", "REPEATED", description=says, fields=_CLASS_FIELDS)
        )
    says = "carried along from the input"
    return fields + [
        SchemaField(column.name, _CARRIED_TYPES[column.kind], description=says)
        for column in columns
    ]


def sql_type(field: SchemaField) -> str:
    """Return the type of a column as DDL has it.

    Example:
        >>> sql_type(SchemaField("embedding", "FLOAT", "REPEATED"))
        'ARRAY<FLOAT64>'
    """
    kind = _STANDARD_NAMES.get(field.field_type, field.field_type)
    if kind == "STRUCT":
        parts = ", ".join(f"{part.name} {sql_type(part)}" for part in field.fields)
        kind = f"STRUCT<{parts}>"
    return f"ARRAY<{kind}>" if field.mode == "REPEATED" else kind


def schema_problems(
    table: str, wanted: Iterable[SchemaField], found: Iterable[SchemaField]
) -> Iterator[SchemaProblem]:
    """Find every column into which the rows of a job would not go.

    Other columns of the table may be there if they may be null; so may a REQUIRED column that is
    never null here.

    Args:
        table: PROJECT.DATASET.TABLE, for the statements.
        wanted: the columns of `table_schema`.
        found: those of the table. BigQuery tells no upper case from lower case in their names.
    """
    wanted = list(wanted)
    there = {field.name.lower(): field for field in found}
    for field in wanted:
        column = there.pop(field.name.lower(), None)
        if column is None:
            yield SchemaProblem(f"{field.name} is missing", (_add(table, field),))
        elif sql_type(column) != sql_type(field):
            says = f"{field.name} is {sql_type(column)} instead of {sql_type(field)}"
            yield SchemaProblem(says, _retype(table, field, column))
        elif column.mode == "REQUIRED" and _may_be_null(field):
            yield SchemaProblem(f"{field.name} is REQUIRED", (_relax(table, field),))
    for column in there.values():
        if column.mode == "REQUIRED":
            says = f"{column.name}, which the job does not write, is REQUIRED"
            yield SchemaProblem(says, (_relax(table, column),))


def _may_be_null(field: SchemaField) -> bool:
    never_null = {name for name, *_ in _COLUMNS} - {"generation"}
    return field.name not in never_null


def _add(table: str, field: SchemaField) -> str:
    return f"ALTER TABLE `{table}` ADD COLUMN `{field.name}` {sql_type(field)};"


def _relax(table: str, field: SchemaField) -> str:
    return f"ALTER TABLE `{table}` ALTER COLUMN `{field.name}` DROP NOT NULL;"


def _retype(table: str, wanted: SchemaField, found: SchemaField) -> tuple[str, ...]:
    if sql_type(wanted) == "FLOAT64" and sql_type(found) in _WIDENS_TO_FLOAT64:
        return (f"ALTER TABLE `{table}` ALTER COLUMN `{found.name}` SET DATA TYPE FLOAT64;",)
    rename = f"ALTER TABLE `{table}` RENAME COLUMN `{found.name}` TO `{found.name}_before`;"
    return rename, _add(table, wanted)
