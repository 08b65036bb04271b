"""Write the SQL of a search anew: `python tests/golden/make_search_sql.py`.

Read the difference before you commit it: BigQuery has to take these statements, and nothing here
can ask it.
"""

from pathlib import Path

from transforms.bigquery.client import TableName
from transforms.search.vector_search_sql import (
    SHOWN_COLUMNS,
    exact_query,
    newest_reports_query,
    vector_index_ddl,
    vector_search_query,
)

TABLE = TableName.parse("bq://my-project.photos.embeddings")


def statements() -> dict[str, str]:
    """Every statement by the name of its file."""
    columns = [*SHOWN_COLUMNS, "label"]
    texts = {
        "vector_search": vector_search_query(TABLE.sql, columns, 10, exact=False),
        "vector_search_exact": vector_search_query(TABLE.sql, columns, 10, exact=True),
        "cosine_distance": exact_query(TABLE.sql, columns, 10),
        "newest_reports": newest_reports_query(TABLE.sibling("_runs").sql),
        "vector_index_ivf": vector_index_ddl(TABLE.sql, "IVF"),
        "vector_index_tree_ah": vector_index_ddl(TABLE.sql, "TREE_AH"),
    }
    return {name: f"{text};\n" for name, text in texts.items()}


if __name__ == "__main__":
    folder = Path(__file__).with_name("search_sql")
    folder.mkdir(exist_ok=True)
    for name, text in statements().items():
        (folder / f"{name}.sql").write_text(text)
