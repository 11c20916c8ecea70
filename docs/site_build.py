"""What `make docs` needs beside mkdocs.yml: a hook of mkdocs and an extension of griffe."""

import re
from typing import Any

import griffe


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turns links to files beside docs/ into plain text, since only docs/ is published."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)


class Examples(griffe.Extension):
    """Has "Example:" read as griffe reads "Examples:", so that doctests are shown as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
