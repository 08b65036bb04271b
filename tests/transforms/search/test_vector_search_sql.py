"""The SQL of a search: its text against golden files, and what an emulator can run of it.

The emulator has neither VECTOR_SEARCH nor vector indexes. To write the golden files anew, after
reading what has changed: `python tests/golden/make_search_sql.py`.
"""

import runpy
from pathlib import Path

import pytest

from transforms.search.vector_search_sql import (
    lacks_vector_search,
    quoted_column,
    vector_index_ddl,
    vector_search_query,
)

GOLDEN = Path(__file__).parents[2] / "golden"
DOCUMENTATION = (GOLDEN.parents[1] / "docs/search.md").read_text()
STATEMENTS = runpy.run_path(str(GOLDEN / "make_search_sql.py"))["statements"]()


@pytest.mark.parametrize("name", STATEMENTS)
def test_the_statement_is_the_golden_one(name):
    assert STATEMENTS[name] == (GOLDEN / "search_sql" / f"{name}.sql").read_text()


def test_every_golden_file_is_of_a_statement():
    assert {file.stem for file in (GOLDEN / "search_sql").iterdir()} == set(STATEMENTS)


def test_an_exact_search_differs_from_another_one_by_its_option_only():
    plain = vector_search_query("`p.d.t`", ["uri"], 3, exact=False)
    exact = vector_search_query("`p.d.t`", ["uri"], 3, exact=True)
    assert exact.replace(",\n  options => '{\"use_brute_force\":true}'", "") == plain != exact


def test_the_index_stores_the_columns_of_the_filter():
    ddl = vector_index_ddl("`p.d.t`", stored=["uri"])
    assert "STORING (`model_fingerprint`, `preprocess_fingerprint`, `precision`, `uri`)" in ddl


@pytest.mark.parametrize("name", ["", "a`b", "a\\b", "a\nb"])
def test_what_would_end_the_backticks_is_no_column(name):
    with pytest.raises(ValueError, match="no name of a column"):
        quoted_column(name)


@pytest.mark.parametrize(
    ("message", "lacks"),
    [
        ("Catalog Error: Table Function with name vector_search does not exist!", True),
        ("Table-valued function not found: VECTOR_SEARCH at [2:6]", True),
        ("Table p.d.vector_search was not found in location US", True),
        ("Not found: Table p.d.t was not found in location US", False),
        ("VECTOR_SEARCH: the vectors have different lengths", False),
    ],
)
def test_only_the_missing_function_is_taken_for_one(message, lacks):
    assert lacks_vector_search(message) == lacks


@pytest.mark.parametrize(
    "name", ["vector_search_exact", "cosine_distance", "vector_index_ivf", "vector_index_tree_ah"]
)
def test_the_documentation_has_the_statement(name):
    assert STATEMENTS[name] in DOCUMENTATION
