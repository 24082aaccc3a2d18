"""Print the files, functions and classes of src that are larger than a reader can hold in mind; exit 1 if any is.

Linters count arguments and branches, none counts these three. What may be larger stands in `ALLOWED`, with the reason.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PUBLIC_METHODS = 15

# "path" or "path:qualified.name", relative to src -> why it may be larger.
ALLOWED: dict[str, str] = {}


def main(root: Path) -> int:
    """Check every Python file below `root`; return the exit status."""
    found = {place: what for path in sorted(root.rglob("*.py")) for place, what in oversized(path, root)}
    for place, what in found.items():
        if place not in ALLOWED:
            print(f"{place}: {what}")
    stale = sorted(ALLOWED.keys() - found.keys())
    for place in stale:
        print(
            f"{place}: allowed to be larger, but it is not any more. Remove it from ALLOWED in {Path(__file__).name}."
        )
    return 1 if stale or found.keys() - ALLOWED.keys() else 0


def oversized(path: Path, root: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, what is too large about it) for one file."""
    source = path.read_text(encoding="utf-8")
    place = path.relative_to(root).as_posix()
    num_lines = len(source.splitlines())
    if num_lines > MAX_FILE_LINES:
        yield place, f"{num_lines} lines; aim for {MAX_FILE_LINES}"
    for name, node in definitions(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            num_public = sum(isinstance(item, _FUNCTION) and not item.name.startswith("_") for item in node.body)
            if num_public > MAX_PUBLIC_METHODS:
                yield f"{place}:{name}", f"{num_public} public methods; aim for {MAX_PUBLIC_METHODS}"
        elif (num_lines := body_lines(node)) > MAX_FUNCTION_LINES:
            yield f"{place}:{name}", f"{num_lines} lines; aim for {MAX_FUNCTION_LINES}"


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, _Definition]]:
    """Yield every class and function below `node` with its qualified name."""
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, (*_FUNCTION, ast.ClassDef)):
            name = f"{prefix}{child.name}"
            yield name, child
            name += "."
        yield from definitions(child, name)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function takes from its `def` on, its docstring not counted."""
    assert function.end_lineno is not None
    num_lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        assert first.end_lineno is not None
        num_lines -= first.end_lineno - first.lineno + 1
    return num_lines


_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent.parent / "src"))
