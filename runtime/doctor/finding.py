"""Findings: named values, with advice if the user should do something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """``advice`` says what to do if ``value`` is not as it should be; None: all is well."""

    name: str
    value: str
    advice: str | None = None


@dataclass(frozen=True)
class Section:
    """Findings about one subject."""

    title: str
    findings: tuple[Finding, ...]


def advice_in(sections: Sequence[Section]) -> list[str]:
    """All advice, each piece once."""
    lines = [finding.advice for section in sections for finding in section.findings if finding.advice is not None]
    return list(dict.fromkeys(lines))


def section_lines(sections: Sequence[Section]) -> Iterator[str]:
    """The sections as text, the advice last."""
    for section in sections:
        yield section.title
        width = max((len(finding.name) for finding in section.findings), default=0)
        for finding in section.findings:
            first, *more = finding.value.splitlines() or [""]
            mark = " " if finding.advice is None else "!"
            yield f" {mark} {finding.name:{width}}  {first}"
            yield from (f"   {'':{width}}  {line}" for line in more)
        yield ""
    advice = advice_in(sections)
    yield "what to do" if advice else "all is well: there is nothing to do"
    yield from (f" - {line}" for line in advice)
