"""What a check found: how bad it is, what it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

OK, NOTE, WARN, FAIL = "ok", "note", "warning", "problem"
_STYLES = {OK: "green", NOTE: "cyan", WARN: "yellow", FAIL: "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        level: `OK`, `NOTE`, `WARN` or `FAIL`.
        name: what was looked at.
        text: what was found.
        advice: what to do, where there is something to do.
    """

    level: str
    name: str
    text: str
    advice: str = ""


def findings_table(findings: list[Finding]) -> Table:
    """Returns a row for each finding, advice below it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=len(WARN))
    table.add_column(no_wrap=True, min_width=11)
    table.add_column(overflow="fold")
    for finding in findings:
        style = _STYLES[finding.level]
        table.add_row(Text(finding.level, style), finding.name, Text(finding.text))
        if finding.advice:
            table.add_row("", "", Text(f"-> {finding.advice}", style))
    return table
