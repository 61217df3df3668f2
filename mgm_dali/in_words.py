"""Values in words for people: spans of time, and names that are safe to print."""

__all__ = ["printable", "span"]

LONGEST_SECONDS = 10_000 * 86400.0
"""Clocks differ, and files may say anything."""


def span(seconds: float) -> str:
    """A length of time in its largest unit: 12 s, 3 min, 5.2 h, 2.1 d; none is below zero."""
    seconds = min(max(seconds, 0.0), LONGEST_SECONDS)
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.{0 if name == 'min' else 1}f} {name}"
    return f"{seconds:.0f} s"


def printable(text: str) -> str:
    """Names of files may hold anything, line breaks and commands to a terminal too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
