"""Cells that no spreadsheet runs: text that people or models wrote may look like a formula."""

from __future__ import annotations

import re

# What programs in use take for the beginning of a formula, full-width signs included (OWASP, "CSV Injection"); it
# would destroy "- a list" and run "=HYPERLINK(...)".
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?\Z")


def guard(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe goes before what would be; numbers stay."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.match(cell) else cell


def unguard(cell: str) -> str:
    """What `guard` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
