"""README.md and the pages under docs/: their code blocks, and the commands in them, which the tests run."""

import re

from conftest import ROOT

PAGES = {"README": ROOT / "README.md", **{p.stem: p for p in sorted((ROOT / "docs").glob("*.md"))}}


def section(page: str, heading: str = "") -> str:
    """Text of a page, or of its section whose heading begins with `heading`."""
    text = PAGES[page].read_text()
    if not heading:
        return text
    return next(part for part in re.split(r"^## ", text, flags=re.M) if part.startswith(heading))


def blocks(page: str, language: str, heading: str = "") -> list[str]:
    """Code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", section(page, heading), re.S | re.M)


def commands(page: str, heading: str = "") -> list[str]:
    """Lines of the shell blocks, in order, without their comments; a line that ends in a backslash goes on."""
    text = re.sub(r"\\\n\s*", "", "".join(blocks(page, "sh", heading)))
    return [found for line in text.splitlines() if (found := re.sub(r"(^|\s+)# .*", "", line))]


def inline(page: str) -> list[str]:
    """Commands in the running text: code that begins with `dvc `, `make `, `git ` or `python -m `."""
    text = re.sub(r"^```.*?^```$", "", section(page), flags=re.S | re.M)
    found = re.findall(r"`((?:dvc|make|git|python -m) [^`]+)`", text)
    return [" ".join(line.split()) for line in found]
