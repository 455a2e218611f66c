"""Formats numbers and untrusted text for the page."""

import math
import unicodedata
from typing import Any, TypeGuard

ABSENT = "\u2013"
HIDDEN = {0xAD, 0x61C, 0xFEFF, *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070)} - {
    0x200C,
    0x200D,
}
"""Besides control characters and surrogates: soft hyphen, direction marks, separators, joiners. U+200C and U+200D are
kept, as some scripts need them."""
LONGEST = 60  # characters of one word, key or value that are shown


def visible(text: str, longest: int = LONGEST) -> str:
    """The text with characters that are invisible or change the text direction written as <U+202E>, cut after `longest`
    characters, with their total number. Can always be encoded as UTF-8; HTML is not escaped."""
    shown = "".join(f"<U+{ord(c):04X}>" if _is_hidden(c) else c for c in text[:longest])
    return shown if len(text) <= longest else f"{shown}\u2026 ({len(text):,} characters)"


def _is_hidden(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Cc", "Cs") or ord(character) in HIDDEN or ord(character) & 0xFFFE == 0xFFFE


def is_number(value: Any) -> TypeGuard[float]:
    """A finite int or float; not bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def percent(fraction: Any, digits: int = 2) -> str:
    """12.34 for 0.1234; a dash for nan and None."""
    return f"{100 * fraction:,.{digits}f}" if is_number(fraction) else ABSENT


def share(part: Any, whole: Any, digits: int = 1) -> str:
    """`part` of `whole` in per cent; a dash if `whole` is 0 or missing."""
    return f"{percent(part / whole, digits)}" if is_number(part) and is_number(whole) and whole else ABSENT


def span(interval: Any) -> str:
    """11.20 to 13.50 for [0.112, 0.135]; a dash without an interval."""
    if not isinstance(interval, list | tuple) or len(interval) != 2 or not all(map(is_number, interval)):
        return ABSENT
    return " to ".join(percent(end).replace("-", "\u2212") for end in interval)


def signed(points: Any) -> str:
    """A difference of two fractions in percentage points, with its sign: +1.20, \u22120.31, 0.00."""
    if not is_number(points):
        return ABSENT
    text = f"{100 * points:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "\u2212")


def number(value: Any, digits: int = 2) -> str:
    """1,234 or 0.12; a dash for nan and None."""
    if not is_number(value):
        return ABSENT
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def value(given: Any) -> str:
    """Any JSON value as text: numbers with separators, yes or no, the items of lists and objects, strings as
    `visible`."""
    if isinstance(given, bool):
        return "yes" if given else "no"
    if isinstance(given, float) and is_number(given):
        return f"{given:,.1f}" if abs(given) >= 100 else f"{given:.4g}"
    if isinstance(given, dict):
        given = [f"{name.replace('_', ' ')} {value(one)}" for name, one in given.items() if one is not None]
    if isinstance(given, list | tuple):
        return ", ".join(map(value, given[:10])) + ", \u2026" * (len(given) > 10)
    return number(given) if given is None or isinstance(given, int | float) else visible(str(given), 160)
