"""Which files of this repository a stage imports, directly or not, at any depth of its code."""

import ast
from pathlib import Path


def imports(path: Path) -> set[Path]:
    """Files under stages/ that `path` names in import statements anywhere in it (TYPE_CHECKING blocks included)."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        for name in names:
            if name.startswith("stages."):
                file = Path(*name.split(".")).with_suffix(".py")
                if file.exists():
                    found.add(file)
    return found


def closure(path: Path) -> set[Path]:
    """`path` and everything it imports from stages/, transitively."""
    seen: set[Path] = set()
    waiting = {path}
    while waiting:
        seen |= waiting
        waiting = set().union(*(imports(p) for p in waiting)) - seen
    return seen
