"""The SQL of a search in a table of embeddings: the queries, and the index that makes them quick.

The vector is the query parameter `@embedding`, an ARRAY<FLOAT64>; a set of comparable vectors is
named by `@model_fingerprint`, `@preprocess_fingerprint` and `@precision`, as in `bigquery_sql`.

Sources: VECTOR_SEARCH and its options, which have to be literals,
https://cloud.google.com/bigquery/docs/reference/standard-sql/search_functions#vector_search;
vector indexes, https://cloud.google.com/bigquery/docs/vector-index; COSINE_DISTANCE,
https://cloud.google.com/bigquery/docs/reference/standard-sql/mathematical_functions#cosine_distance
"""

import re
from collections.abc import Sequence
from typing import Literal

from transforms.bigquery.sql import KEY

IndexType = Literal["IVF", "TREE_AH"]

#: What makes two vectors comparable: rows that are the same in all of these.
SET_COLUMNS = KEY[1:]

#: What a search shows of a row, besides the carried columns.
SHOWN_COLUMNS = ("uri", "sha256", "format", "width", "height")

#: Of the last column of a search. A carried column may be called distance.
DISTANCE = "embed_images_distance"

INDEX_NAME = "embedding_index"


def quoted_column(name: str) -> str:
    """Return the name of a column as GoogleSQL takes it.

    Raises:
        ValueError: no column has such a name.

    Example:
        >>> quoted_column("label")
        '`label`'
    """
    # A name in backticks knows escapes, so these two would end it or change it.
    if not name or re.search(r"[`\\\n\r]", name):
        raise ValueError(f"{name!r} is no name of a column")
    return f"`{name}`"


def vector_search_query(table: str, columns: Sequence[str], count: int, *, exact: bool) -> str:
    """Return the query for the nearest rows, through the table's vector index where it has one.

    Without an index BigQuery compares every row. With one the answer is approximate, and quick
    only where the columns of the filter are stored in the index, as `vector_index_ddl` does;
    else BigQuery filters behind the search, and fewer rows than `count` may come back.

    Args:
        table: in backticks, as `TableName.sql`.
        columns: what comes back of each row; also `DISTANCE`, one minus the cosine.
        count: the most rows.
        exact: compare every row, whatever index there is.

    Example:
        >>> print(vector_search_query("`p.d.t`", ["uri"], 3, exact=False))
        SELECT base.`uri`, distance AS embed_images_distance
        FROM VECTOR_SEARCH(
          (
            SELECT `uri`, `embedding`
            FROM `p.d.t`
            WHERE `model_fingerprint` = @model_fingerprint
              AND `preprocess_fingerprint` = @preprocess_fingerprint
              AND `precision` = @precision
          ),
          'embedding',
          (SELECT @embedding AS `embedding`),
          top_k => 3,
          distance_type => 'COSINE'
        )
        ORDER BY embed_images_distance, base.`uri`
    """
    names = [quoted_column(column) for column in columns]
    options = ",\n  options => '{\"use_brute_force\":true}'" if exact else ""
    return f"""\
SELECT {", ".join(f"base.{name}" for name in names)}, distance AS {DISTANCE}
FROM VECTOR_SEARCH(
  (
    SELECT {", ".join([*names, "`embedding`"])}
    FROM {table}
    WHERE {_set_condition("      ")}
  ),
  'embedding',
  (SELECT @embedding AS `embedding`),
  top_k => {int(count)},
  distance_type => 'COSINE'{options}
)
ORDER BY {DISTANCE}, base.`uri`"""


def exact_query(table: str, columns: Sequence[str], count: int) -> str:
    """Return the query that compares every row by COSINE_DISTANCE, for where no VECTOR_SEARCH is.

    Args: as of `vector_search_query`, and its rows have the same columns.
    """
    names = ", ".join(quoted_column(column) for column in columns)
    return f"""\
SELECT {names}, COSINE_DISTANCE(`embedding`, @embedding) AS {DISTANCE}
FROM {table}
WHERE {_set_condition("  ")}
ORDER BY {DISTANCE}, `uri`
LIMIT {int(count)}"""


def vector_index_ddl(
    table: str, index_type: IndexType = "IVF", stored: Sequence[str] = SHOWN_COLUMNS
) -> str:
    """Return the statement that creates the vector index of a table.

    Args:
        table: in backticks, as `TableName.sql`.
        index_type: IVF suits searches for one image, or a few. TREE_AH suits those for hundreds
            at once; for few BigQuery may pass it over.
        stored: columns to keep in an IVF index besides those of the filter, so that a search
            need not go to the table for them. The documented form of TREE_AH stores none.
    """
    storing = ", ".join(quoted_column(column) for column in (*SET_COLUMNS, *stored))
    clause = f"\nSTORING ({storing})" if index_type == "IVF" else ""
    return f"""\
CREATE VECTOR INDEX IF NOT EXISTS `{INDEX_NAME}`
ON {table}(`embedding`){clause}
OPTIONS (index_type = '{index_type}', distance_type = 'COSINE')"""


def newest_reports_query(runs_table: str, *, or_merging: bool = False) -> str:
    """Return the query for the report of the newest complete run of each set, the newest first.

    Args:
        runs_table: in backticks, with one row a run: `run_id`, which sorts by time, and
            `report`, the text of run.json.
        or_merging: also of a run that was about to merge its rows, and may have done so.
    """
    wanted = "IN ('complete', 'merging')" if or_merging else "= 'complete'"
    return f"""\
SELECT `report`
FROM {runs_table}
WHERE JSON_VALUE(`report`, '$.status') {wanted}
QUALIFY 1 = ROW_NUMBER() OVER (
  PARTITION BY
    JSON_VALUE(`report`, '$.model.fingerprint'),
    JSON_VALUE(`report`, '$.preprocessing.fingerprint'),
    JSON_VALUE(`report`, '$.model.precision')
  ORDER BY `run_id` DESC
)
ORDER BY `run_id` DESC"""


def lacks_vector_search(message: str) -> bool:
    """Return whether an error says that there is no VECTOR_SEARCH, as an emulator's does.

    Example:
        >>> lacks_vector_search("Table Function with name vector_search does not exist!")
        True
    """
    return bool(
        re.search(
            r"\bvector_search\b.{0,40}\b(does not exist|not found|not supported)"
            r"|\bfunction not found: vector_search\b",
            message,
            re.IGNORECASE,
        )
    )


def _set_condition(indent: str) -> str:
    conditions = [f"{quoted_column(column)} = @{column}" for column in SET_COLUMNS]
    return f"\n{indent}AND ".join(conditions)
