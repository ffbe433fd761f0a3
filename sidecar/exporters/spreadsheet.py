"""Text from pods made safe for a cell of a CSV file."""

import unicodedata

_FORMULA_STARTS = ("=", "+", "-", "@")
_BREAKS = {"Cc", "Zl", "Zp"}


def safe_cell(text: str) -> str:
    """Text on one line that no spreadsheet runs as a formula (OWASP, "CSV Injection")."""
    line = one_line(text)
    runs = text.startswith(("\t", "\r")) or line.lstrip().startswith(_FORMULA_STARTS)
    return f"'{line}" if runs else line


def one_line(text: str) -> str:
    """Spaces for control characters and line breaks, `?` for what UTF-8 cannot hold."""
    if text.isascii() and text.isprintable():  # nearly every cell of each window's row
        return text
    encodable = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(" " if unicodedata.category(c) in _BREAKS else c for c in encodable)
