"""The table of cases in tests/README.md and the tests that show them: each row has a test, each marker a row."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]


def rows() -> list[str]:
    return re.findall(r"^\| ([A-Z]\d+) \|", (TESTS / "README.md").read_text("utf-8"), re.MULTILINE)


@cache
def marked() -> set[str]:
    """Every row that a `pytest.mark.case` in the test files names."""
    found = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.case":
                found |= {str(ast.literal_eval(argument)) for argument in node.args}
    return found


def test_no_row_is_there_twice() -> None:
    assert len(rows()) == len(set(rows())) > 100


def test_every_marker_names_a_row() -> None:
    assert marked() <= set(rows())


def test_every_row_has_a_test() -> None:
    assert set(rows()) <= marked()
