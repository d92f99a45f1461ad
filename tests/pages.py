"""The pages under docs/: their code blocks, and the commands in them, which the tests run."""

import re

from conftest import ROOT


def blocks(page: str, language: str) -> list[str]:
    """Code blocks of a language, in order."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)


def commands(page: str) -> list[str]:
    """Lines of the shell blocks, in order, without their comments."""
    lines = "".join(blocks(page, "sh")).splitlines()
    return [found for line in lines if (found := re.sub(r"(^|\s+)# .*", "", line))]
