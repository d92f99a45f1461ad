"""Which files and packages of this repository a module imports, and who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

STAGE, TOOLS = "a stage", "tools"
# who may import whom, beside itself (LOG.md, 2026-11-25): a cycle between packages cannot be written down here
MAY = {
    "core": set(),
    "weights": {"core"},
    "text": {"core", "weights"},
    "llm": {"core", "weights"},
    "personas": {"core", "text", "llm"},
    "dialogue": {"core", "weights", "text", "llm", "personas"},
    "pairs": {"core", "text", "dialogue"},
    "training": {"core", "weights"},
    "judging": {"core", "llm"},
    "evaluation": {"core", "text"},
}
MAY[STAGE] = set(MAY)
MAY[TOOLS] = {*MAY, STAGE}


def imports(path: Path) -> Iterator[tuple[int, Path]]:
    """(line, file under stages/) of every import statement anywhere in `path` (TYPE_CHECKING blocks included).

    `path` and the files are relative to the root of the repository, which is the current folder.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        for name in names:
            file = Path(*name.split(".")).with_suffix(".py")
            if name.startswith("stages.") and file.exists():
                yield node.lineno, file


def closure(path: Path) -> set[Path]:
    """`path` and everything it imports from stages/, transitively."""
    seen: set[Path] = set()
    waiting = {path}
    while waiting:
        seen |= waiting
        waiting = {file for p in waiting for _, file in imports(p)} - seen
    return seen


def package(file: Path) -> str:
    """The package of a file under stages/; STAGE for a stage."""
    return file.parts[1] if len(file.parts) > 2 else STAGE


def forbidden(file: Path) -> list[str]:
    """Imports of `file` that MAY does not allow, and imports by string: `file:line: what`."""
    own = package(file)
    wrong = [
        f"{file}:{line}: {own} imports {package(found)} ({found})"
        for line, found in imports(file)
        if package(found) not in MAY[own] | ({own} - {STAGE})
    ]
    by_string = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Attribute | ast.Name)]
    by_string = [
        n for n in by_string if (n.attr if isinstance(n, ast.Attribute) else n.id) in ("import_module", "__import__")
    ]
    return wrong + [f"{file}:{n.lineno}: import by string" for n in by_string if own not in ("text",)]
