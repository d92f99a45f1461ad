"""The pages under docs/: their code blocks, and the commands in them, which the tests run."""

import re

from conftest import ROOT


def section(page: str, heading: str = "") -> str:
    """Text of a page, or of its section whose heading begins with `heading`."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    if not heading:
        return text
    return next(part for part in re.split(r"^## ", text, flags=re.M) if part.startswith(heading))


def blocks(page: str, language: str, heading: str = "") -> list[str]:
    """Code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", section(page, heading), re.S | re.M)


def commands(page: str, heading: str = "") -> list[str]:
    """Lines of the shell blocks, in order, without their comments."""
    lines = "".join(blocks(page, "sh", heading)).splitlines()
    return [found for line in lines if (found := re.sub(r"(^|\s+)# .*", "", line))]
