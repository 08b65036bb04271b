"""The columns of the table of embeddings, and what a table lacks of them."""

from google.cloud.bigquery import SchemaField

from transforms.bigquery.schema import schema_problems, sql_type, table_schema
from transforms.formats.embedding_rows import rows_schema
from transforms.records import CarriedColumn, OutputLayout

TABLE = "p.d.t"
PLAIN = OutputLayout(8)
ALL = OutputLayout(8, classes=3, writes_logits=True, top_classes=2)
CARRIED = (
    CarriedColumn("label"),
    CarriedColumn("price", "float64"),
    CarriedColumn("stock", "int64"),
    CarriedColumn("sold", "bool"),
)


def problems(found: list[SchemaField], layout: OutputLayout = PLAIN) -> dict[str, tuple[str, ...]]:
    listed = schema_problems(TABLE, table_schema(layout, CARRIED[:1]), found)
    return {problem.says: problem.mended_by for problem in listed}


def changed(name: str, *fields: SchemaField) -> list[SchemaField]:
    """The columns of a fitting table, one of them replaced."""
    fitting = table_schema(PLAIN, CARRIED[:1])
    place = [field.name for field in fitting].index(name)
    return [*fitting[:place], *fields, *fitting[place + 1 :]]


def test_the_columns_are_those_of_the_issue_and_then_outputs_and_carried_ones() -> None:
    assert [(field.name, sql_type(field)) for field in table_schema(ALL, CARRIED)] == [
        ("uri", "STRING"),
        ("sha256", "STRING"),
        ("generation", "STRING"),
        ("width", "INT64"),
        ("height", "INT64"),
        ("format", "STRING"),
        ("embedding", "ARRAY<FLOAT64>"),
        ("model", "STRING"),
        ("model_fingerprint", "STRING"),
        ("preprocess_fingerprint", "STRING"),
        ("precision", "STRING"),
        ("run_id", "STRING"),
        ("embedded_at", "TIMESTAMP"),
        ("logits", "ARRAY<FLOAT64>"),
        ("classes", "ARRAY<STRUCT<index INT64, probability FLOAT64, label STRING>>"),
        ("label", "STRING"),
        ("price", "FLOAT64"),
        ("stock", "INT64"),
        ("sold", "BOOL"),
    ]
    assert all(field.description for field in table_schema(ALL, CARRIED))


def test_the_columns_have_the_names_and_order_of_the_rows() -> None:
    rows = rows_schema(ALL, CARRIED, vectors="float32")
    assert [field.name for field in table_schema(ALL, CARRIED)] == rows.names


def test_a_table_as_the_api_describes_it_fits() -> None:
    legacy = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "STRUCT": "RECORD"}
    found = [
        SchemaField(
            field.name.upper(),
            legacy.get(field.field_type, field.field_type),
            field.mode,
            fields=[
                SchemaField(part.name, legacy.get(part.field_type, part.field_type))
                for part in field.fields
            ],
        )
        for field in table_schema(ALL, CARRIED[:1])
    ]
    assert problems(found, ALL) == {}


def test_other_columns_may_be_there_if_they_may_be_null() -> None:
    fitting = table_schema(PLAIN, CARRIED[:1])
    assert problems([*fitting, SchemaField("note", "STRING")]) == {}
    assert problems([SchemaField("note", "STRING", "REQUIRED"), *fitting]) == {
        "note, which the job does not write, is REQUIRED": (
            "ALTER TABLE `p.d.t` ALTER COLUMN `note` DROP NOT NULL;",
        )
    }


def test_every_problem_is_named_with_what_mends_it() -> None:
    found = [
        field for field in changed("width", SchemaField("width", "STRING")) if field.name != "label"
    ]
    assert problems(found) == {
        "width is STRING instead of INT64": (
            "ALTER TABLE `p.d.t` RENAME COLUMN `width` TO `width_before`;",
            "ALTER TABLE `p.d.t` ADD COLUMN `width` INT64;",
        ),
        "label is missing": ("ALTER TABLE `p.d.t` ADD COLUMN `label` STRING;",),
    }


def test_a_vector_column_that_is_not_repeated_does_not_fit() -> None:
    assert problems(changed("embedding", SchemaField("embedding", "FLOAT64"))) == {
        "embedding is FLOAT64 instead of ARRAY<FLOAT64>": (
            "ALTER TABLE `p.d.t` RENAME COLUMN `embedding` TO `embedding_before`;",
            "ALTER TABLE `p.d.t` ADD COLUMN `embedding` ARRAY<FLOAT64>;",
        )
    }


def test_a_number_is_widened_in_place() -> None:
    wanted = table_schema(PLAIN, CARRIED[1:2])
    found = [*wanted[:-1], SchemaField("price", "INTEGER")]
    [problem] = schema_problems(TABLE, wanted, found)
    assert problem.mended_by == ("ALTER TABLE `p.d.t` ALTER COLUMN `price` SET DATA TYPE FLOAT64;",)


def test_required_columns_fit_unless_the_job_may_leave_them_null() -> None:
    assert problems(changed("uri", SchemaField("uri", "STRING", "REQUIRED"))) == {}
    assert problems(changed("generation", SchemaField("generation", "STRING", "REQUIRED"))) == {
        "generation is REQUIRED": ("ALTER TABLE `p.d.t` ALTER COLUMN `generation` DROP NOT NULL;",)
    }


def test_classes_of_other_fields_do_not_fit() -> None:
    found = [
        field
        if field.name != "classes"
        else SchemaField("classes", "RECORD", "REPEATED", fields=[SchemaField("index", "INT64")])
        for field in table_schema(ALL, CARRIED[:1])
    ]
    [says] = problems(found, ALL)
    assert says == (
        "classes is ARRAY<STRUCT<index INT64>> instead of "
        "ARRAY<STRUCT<index INT64, probability FLOAT64, label STRING>>"
    )
