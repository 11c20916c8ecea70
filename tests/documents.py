"""Code blocks of Markdown files, so that what a reader copies is what the tests run."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def blocks(document: str, language: str) -> list[str]:
    """Returns the fenced blocks of one language, in order."""
    text = (CHECKOUT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def links(document: str) -> list[str]:
    """Returns what the document links to, without links to the web."""
    text = (CHECKOUT / document).read_text()
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if "://" not in target]


def promised_output(code: str) -> list[str]:
    """Returns what the comments behind `print` say that it prints, cut at each "..."."""
    comments = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    return [part.strip() for comment in comments for part in comment.split("...") if part.strip()]
