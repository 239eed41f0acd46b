"""The rules of the layout that no other tool checks."""

from __future__ import annotations

import ast
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.paths import REPOSITORY

MODULES = sorted(path for path in (REPOSITORY / "agent").rglob("*.py") if "pb" not in path.parts)
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
SOURCES = [*MODULES, *TESTS, *sorted((REPOSITORY / "deploy").rglob("*.py"))]

# The comments that may stand behind code: a word for a tool with its reason, or a unit.
COMMENT_BEHIND_CODE = re.compile(
    r"# (noqa\b|type: ignore|pragma:|fmt: |(CPU seconds|seconds|bytes|MiB)$)"
)

# The nodes that are one more way through a function, as radon counts them.
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.comprehension)
Function = ast.FunctionDef | ast.AsyncFunctionDef


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


def nodes(path: Path) -> Iterator[ast.AST]:
    """Yield all nodes of a file's syntax tree."""
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def place(path: Path, line: int) -> str:
    """Return a line of a file as people name it."""
    return f"{path.relative_to(REPOSITORY)}:{line}"


def is_frozen(class_: ast.ClassDef) -> bool:
    """Return whether a class is a frozen dataclass, which holds no state."""
    return any("frozen=True" in ast.unparse(decorator) for decorator in class_.decorator_list)


def attributes_of(class_: ast.ClassDef) -> set[str]:
    """Return the fields that a class declares, and the attributes that its methods set."""
    fields = {
        node.target.id
        for node in class_.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return fields | {
        node.attr
        for node in ast.walk(class_)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) == "self"
    }


def complexity(function: Function) -> int:
    """Return the cyclomatic complexity of a function, counted as radon counts it.

    The functions inside of it are counted for themselves.
    """
    return 1 + sum(map(ways, function.body))


def ways(node: ast.AST) -> int:
    """Return how many more ways through a function there are by this node and those below it."""
    if isinstance(node, Function | ast.ClassDef):
        return 0
    if isinstance(node, ast.Assert):
        return 1
    count = sum(map(ways, ast.iter_child_nodes(node)))
    count += isinstance(node, BRANCHES)
    if isinstance(node, ast.BoolOp):
        count += len(node.values) - 1
    elif isinstance(node, ast.comprehension):
        count += len(node.ifs)
    elif isinstance(node, ast.Try):
        count += len(node.handlers) + bool(node.orelse)
    elif isinstance(node, ast.For | ast.AsyncFor | ast.While):
        count += bool(node.orelse)
    elif isinstance(node, ast.match_case):
        count += 1
    return count


def test_no_class_name_occurs_twice() -> None:
    places = defaultdict(list)
    for path in (*MODULES, *TESTS):
        for node in nodes(path):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(place(path, node.lineno))
    assert len(places) > 250
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_module_has_more_than_400_lines() -> None:
    sizes = {
        str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines())
        for path in MODULES
    }
    assert {path: lines for path, lines in sizes.items() if lines > 400} == {}


def test_no_class_that_holds_state_has_more_than_20_attributes() -> None:
    sizes = {
        f"{place(path, node.lineno)} {node.name}": len(attributes_of(node))
        for path in MODULES
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and not is_frozen(node)
    }
    # Settings are one frozen value, whose base class freezes them.
    state = {name: size for name, size in sizes.items() if not name.endswith("Settings")}
    assert {name: size for name, size in state.items() if size > 20} == {}


def test_no_comment_stands_behind_code_but_for_a_unit_or_a_tool() -> None:
    behind = []
    for path in SOURCES:
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                follows_code = token.line[: token.start[1]].strip()
                if (
                    token.type == tokenize.COMMENT
                    and follows_code
                    and not COMMENT_BEHIND_CODE.match(token.string)
                ):
                    behind.append(f"{place(path, token.start[0])} {token.string}")
    assert behind == []


def test_no_function_has_a_complexity_of_15_or_more() -> None:
    found = {
        f"{place(path, node.lineno)} {node.name}": complexity(node)
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, Function)
    }
    assert {name: size for name, size in found.items() if size >= 15} == {}


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


def compared_codes(tree: ast.AST) -> list[int]:
    """Return the lines of the comparisons that have an attribute ``code`` in them.

    ``error.code() == …`` is a call and no attribute that is compared: so gRPC's own errors are
    asked. ``match error.code`` counts as a comparison.
    """
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            operands = [node.subject]
        else:
            continue
        inner = [
            part
            for operand in operands
            for part in (operand.elts if isinstance(operand, (ast.Tuple, ast.Set)) else [operand])
        ]
        if any(isinstance(part, ast.Attribute) and part.attr == "code" for part in inner):
            lines.append(operands[0].lineno)
    return lines


@pytest.mark.parametrize(
    "line",
    [
        'error.code == "reset"',
        'log.error.code not in {"gone"}',
        'code in ("", log.error.code)',
        'error and "reset" == error.code',
        'match error.code:\n    case "reset":\n        pass',
    ],
)
def test_a_comparison_of_a_code_is_seen(line: str) -> None:
    assert compared_codes(ast.parse(line)) == [1]


def test_the_code_of_an_error_is_compared_only_in_the_model() -> None:
    places = [
        f"{path.relative_to(REPOSITORY)}:{line}"
        for path in MODULES
        if path.parent != REPOSITORY / "agent" / "model"
        for line in compared_codes(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert places == [], (
        "what follows from a code stands in one table, so that a new code is added in one place: "
        "give the code a trait in agent/model/error_table.py, and ask error.means(TRAIT)"
    )
