"""Reasoning before the answer, as thinking models write it: between two markers that the chat template knows."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.text.chat_template import ChatTemplate


@dataclass(frozen=True)
class Markers:
    """What stands before and after the reasoning."""

    opening: str
    closing: str


# Qwen3, DeepSeek-R1, SmolLM3 and others; Magistral, whose markers are special tokens.
KNOWN = (Markers("<think>", "</think>"), Markers("[THINK]", "[/THINK]"))


def find_markers(template: ChatTemplate) -> Markers | None:
    """The markers that ``template`` writes or reads; None if its model does not reason."""
    return next((markers for markers in KNOWN if template.mentions(markers.closing)), None)


def is_open(markers: Markers | None, prompt: str) -> bool:
    """Whether ``prompt`` ends within reasoning, so that the answer begins with it."""
    return markers is not None and prompt.rstrip().endswith(markers.opening)
