"""Write the tree of src into README.md, one line per file: the first line of its docstring.

With `--check` nothing is written; the exit status is 1 if the tree is not what it would be.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
START, END = "<!-- tree: written by tools/write_tree.py -->\n```\n", "```\n<!-- end of tree -->"
COLUMN = 28  # where the descriptions begin


def main(arguments: list[str]) -> int:
    """Write or check the tree; return the exit status."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, found_start, rest = text.partition(START)
    _, found_end, after = rest.partition(END)
    if not found_start or not found_end:
        raise SystemExit(f"README.md must have {START!r} and {END!r}")
    current = before + START + "".join(f"{line}\n" for line in tree(ROOT / "src")) + END + after
    if current == text:
        return 0
    if "--check" in arguments:
        print("The tree in README.md is out of date. Run: make format")
        return 1
    readme.write_text(current, encoding="utf-8")
    return 0


def tree(folder: Path, depth: int = 0) -> Iterator[str]:
    """Yield a line for every module and package below `folder`: modules first, then packages."""
    indent = "  " * depth
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield described(f"{indent}{path.name}", path)
    for path in sorted(folder.glob("*/__init__.py")):
        yield described(f"{indent}{path.parent.name}/", path)
        yield from tree(path.parent, depth + 1)


def described(name: str, path: Path) -> str:
    """Return a name with the first line of its module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = docstring.partition("\n")[0].rstrip(".")
    return f"{name:<{COLUMN - 1}} {first}".rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
