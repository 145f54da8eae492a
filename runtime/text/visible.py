"""Makes text harmless for terminals: nothing in it moves the cursor, changes colours, or reorders what is read.

What a model says, and what files and users bring, is not trusted. A terminal obeys control characters, and escape
sequences begin with one of them.
"""

from __future__ import annotations

# Line breaks and tabs are shown as what they are.
_KEPT = "\n\t"
# Characters of ``visible_line``.
_LINE = 80
# They reorder the text around them, so that it reads as something else (CVE-2021-42574).
_BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def _picture(code: int) -> str:
    """What is shown for a control character: Unicode's picture of it, or its number where there is none."""
    if code < 0x20:
        return chr(0x2400 + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else f"<{code:02X}>"


_SHOWN = {
    **{code: _picture(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in _KEPT},
    **{ord(character): f"<{ord(character):04X}>" for character in _BIDIRECTIONAL},
    **dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}"),
}


def visible(text: str) -> str:
    """``text`` with pictures for control characters, but for line breaks and tabs.

    >>> visible("\\x1b[2Jnothing")
    '␛[2Jnothing'
    """
    return text.translate(_SHOWN)


def visible_line(text: str) -> str:
    """``text`` as one visible line, shortened if it is long."""
    line = " ".join(visible(text).split())
    return line if len(line) <= _LINE else line[: _LINE - 1] + "…"
