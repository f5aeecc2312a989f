"""What comes from configs, file names and JSON files, as text that is safe to show."""

from __future__ import annotations

from html import escape


def clean(text: object) -> str:
    """Without control characters, which could move a terminal's cursor, or bytes that are no UTF-8."""
    whole = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in whole)


def html(text: object) -> str:
    """For the content of an element or a quoted attribute."""
    return escape(clean(text), quote=True)


def number(value: float) -> str:
    if abs(value) >= 1e15 or value != value:
        return f"{value:.5g}"
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 100_000 else f"{value:.5g}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    if seconds < 5400:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"
