"""The rules of the layout that no other tool checks."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from tests.harness.paths import REPOSITORY

MODULES = sorted(path for path in (REPOSITORY / "agent").rglob("*.py") if "pb" not in path.parts)
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))


def imported_by(path: Path) -> set[str]:
    """Return the modules that a file imports.

    Imports inside of functions count, and imports of programs in the file's strings.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split()
            names |= {word for word in words if word.startswith("tests.")}
    return names


def test_no_class_name_occurs_twice() -> None:
    places = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert len(places) > 150
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_module_has_more_than_400_lines() -> None:
    sizes = {
        str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines())
        for path in MODULES
    }
    assert {path: lines for path, lines in sizes.items() if lines > 400} == {}


@pytest.mark.parametrize("folder", ["unit", "integration", "system", "contracts", "harness"])
def test_no_test_file_is_imported_by_another_file(folder: str) -> None:
    files = [path for path in TESTS if path.relative_to(REPOSITORY / "tests").parts[0] == folder]
    assert files
    importers = {
        str(path.relative_to(REPOSITORY)): sorted(
            name for name in imported_by(path) if name.rpartition(".")[2].startswith("test_")
        )
        for path in files
    }
    assert {path: names for path, names in importers.items() if names} == {}
