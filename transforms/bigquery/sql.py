"""The SQL texts of the table of embeddings. Nothing here knows a client, so they read alone.

A *set* is what one model makes of one preprocessing contract in one precision; its three names are
the query parameters `@model_fingerprint`, `@preprocess_fingerprint` and `@precision`. As constants
beside the URI they let BigQuery pass over the clusters of other models
(https://cloud.google.com/bigquery/docs/querying-clustered-tables).

Of two rows of one image that of the later run is the *newer* one, and within a run the one with
the later `embedded_at`. Ids of runs sort by the start of the run, which one clock tells, where
`embedded_at` is told by the clocks of many workers.
"""

from collections.abc import Sequence

#: There is one row for each of these.
KEY = ("uri", "model_fingerprint", "preprocess_fingerprint", "precision")

_OF_THE_SET = " AND ".join(f"{{prefix}}`{name}` = @{name}" for name in KEY[1:])
_NEWEST_FIRST = "`run_id` DESC, `embedded_at` DESC"
_OLDER = """
  target.`run_id` < source.`run_id`
  OR (target.`run_id` = source.`run_id` AND target.`embedded_at` < source.`embedded_at`)
""".strip()
# A row that somebody else has written: for a ledger it is none, so that its image is embedded.
_OLDER_OR_FOREIGN = f"{_OLDER} OR target.`run_id` IS NULL OR target.`embedded_at` IS NULL"
_AS_SEEN = "(target.`run_id` = source.`run_id` AND target.`embedded_at` = source.`embedded_at`)"


def merge_sql(table: str, staging: str, columns: Sequence[str], *, replace: bool) -> str:
    """Return the statement that takes the rows of a staging table into the table.

    A row that is not there is inserted; with `replace` one that is there and older is replaced.
    Run again, it changes nothing. The order of two runs does not matter: the newer row stays.

    Args:
        table: `PROJECT.DATASET.TABLE`, in backticks.
        staging: likewise; several rows of one URI are no error, the newest counts.
        columns: all that the rows of the run have.
        replace: without it BigQuery reads, and bills, only the columns of the key and the rows of
            the staging table, and the statement never gets into another one's way
            (https://cloud.google.com/bigquery/docs/data-manipulation-language#dml-limitations).
    """
    set_all = ",\n    ".join(f"`{name}` = source.`{name}`" for name in columns if name not in KEY)
    replaced = f"""
WHEN MATCHED AND (
  {_OLDER_OR_FOREIGN}
) THEN UPDATE SET
    {set_all}"""
    return f"""\
MERGE INTO {table} AS target
USING (
  SELECT {_listed(columns)}
  FROM {staging}
  WHERE {_of_the_set()}
  QUALIFY ROW_NUMBER() OVER (PARTITION BY `uri` ORDER BY {_NEWEST_FIRST}) = 1
) AS source
ON {_of_the_set("target.")} AND target.`uri` = source.`uri`{replaced if replace else ""}
WHEN NOT MATCHED BY TARGET THEN
  INSERT ({_listed(columns)})
  VALUES ({_listed(columns, "source.")})"""


def count_older_sql(table: str, staging: str) -> str:
    """Return the query for the number of rows that those of a staging table are to replace."""
    return f"""\
SELECT COUNT(*) AS older
FROM {table} AS target JOIN {staging} AS source ON target.`uri` = source.`uri`
WHERE {_of_the_set("target.")} AND {_of_the_set("source.")}
  AND ({_OLDER_OR_FOREIGN})"""


def count_duplicates_sql(table: str) -> str:
    """Return the query for the number of URIs of the set that have more than one row.

    Rows without a URI are none of ours, and equal to none, so that they could never be removed.
    """
    return f"""\
SELECT COUNT(*) AS duplicated FROM (
  SELECT `uri` FROM {table}
  WHERE {_of_the_set()} AND `uri` IS NOT NULL
  GROUP BY `uri` HAVING COUNT(*) > 1
)"""


def remove_duplicates_sql(table: str, columns: Sequence[str]) -> str:
    """Return the statement that leaves the newest row of each URI of the set.

    Two rows may be equal in every column, so none of them can be named to be deleted. All rows of
    such a URI are deleted and one is inserted, in one statement and so in one transaction.

    Args:
        table: `PROJECT.DATASET.TABLE`, in backticks.
        columns: all of the table.
    """
    return f"""\
MERGE INTO {table} AS target
USING (
  SELECT embed_images_action, {_listed(columns)}
  FROM (
    SELECT
      {_listed(columns)},
      ROW_NUMBER() OVER (PARTITION BY `uri` ORDER BY {_NEWEST_FIRST}) AS embed_images_place,
      COUNT(*) OVER (PARTITION BY `uri`) AS embed_images_copies
    FROM {table}
    WHERE {_of_the_set()} AND `uri` IS NOT NULL
  )
  CROSS JOIN UNNEST(['delete', 'insert']) AS embed_images_action
  WHERE embed_images_place = 1 AND embed_images_copies > 1
) AS source
ON {_of_the_set("target.")} AND target.`uri` = source.`uri`
  AND source.embed_images_action = 'delete'
WHEN MATCHED THEN DELETE
WHEN NOT MATCHED BY TARGET AND source.embed_images_action = 'insert' THEN
  INSERT ({_listed(columns)})
  VALUES ({_listed(columns, "source.")})"""


def prune_sql(table: str, gone: str) -> str:
    """Return the statement that deletes the rows of images that are gone.

    Only rows as old as those that the run has seen, or older: a newer one is of a run that has
    found the image again since.

    Args:
        table: `PROJECT.DATASET.TABLE`, in backticks.
        gone: likewise, with the columns uri, run_id and embedded_at of the rows that were seen.
    """
    return f"""\
MERGE INTO {table} AS target
USING (
  SELECT `uri`, `run_id`, `embedded_at` FROM {gone} WHERE TRUE
  QUALIFY ROW_NUMBER() OVER (PARTITION BY `uri` ORDER BY {_NEWEST_FIRST}) = 1
) AS source
ON {_of_the_set("target.")} AND target.`uri` = source.`uri`
WHEN MATCHED AND (
  {_AS_SEEN}
  OR {_OLDER}
) THEN DELETE"""


def held_sets_sql(table: str) -> str:
    """Return the query for the sets that the table has rows of; only their names are read."""
    return f"SELECT DISTINCT {_listed(KEY[1:])} FROM {table}"


def sets_sql(table: str) -> str:
    """Return the query for the sets of the table, the largest first."""
    names = _listed(KEY[1:])
    return f"""\
SELECT
  {names},
  MAX_BY(`model`, `embedded_at`) AS model,
  COUNT(*) AS row_count,
  MAX_BY(`uri`, `embedded_at`) AS newest_uri,
  MAX(`embedded_at`) AS newest
FROM {table}
GROUP BY {names}
ORDER BY row_count DESC"""


def width_sql(table: str) -> str:
    """Return the query for the width of one vector, that of `@uri` from `@embedded_at`.

    With both given, BigQuery reads one block of one partition instead of all vectors.
    """
    return f"""\
SELECT ARRAY_LENGTH(`embedding`) AS width FROM {table}
WHERE {_of_the_set()} AND `uri` = @uri AND `embedded_at` = @embedded_at LIMIT 1"""


def record_run_sql(runs: str, columns: Sequence[str]) -> str:
    """Return the statement that writes the row of a run; each column is a query parameter.

    Args:
        runs: the table of the runs, in backticks.
        columns: all of them, `run_id` among them.
    """
    replaced = ", ".join(f"`{name}` = @{name}" for name in columns if name != "run_id")
    return f"""\
MERGE INTO {runs} AS target
USING (SELECT @run_id AS run_id) AS source
ON target.`run_id` = source.run_id
WHEN MATCHED THEN UPDATE SET {replaced}
WHEN NOT MATCHED BY TARGET THEN
  INSERT ({_listed(columns)}) VALUES ({", ".join(f"@{name}" for name in columns)})"""


def _of_the_set(prefix: str = "") -> str:
    return _OF_THE_SET.format(prefix=prefix)


def _listed(columns: Sequence[str], prefix: str = "") -> str:
    return ", ".join(f"{prefix}`{name}`" for name in columns)
