"""A headless Chromium of the system, for pages of the server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None
)
PHONE, DESKTOP = (390, 844), (1280, 800)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this system")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A visit of the page at ``root``. ``complaints`` are errors and everything that was asked of other servers."""

    def __init__(self, browser: Any, root: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("request", lambda request: self._check(root, request.url))
        self._root = root

    def __enter__(self) -> Visit:
        self.page.goto(self._root)
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def _check(self, root: str, url: str) -> None:
        if not url.startswith(f"{root}/"):
            self.complaints.append(f"asked for {url}")

    def wait_for_plan(self) -> None:
        self.page.locator("#plan-summary:not(:empty)").wait_for(state="attached")

    def say(self, text: str) -> None:
        """Types ``text`` and sends it, as people do."""
        self.page.fill("#prompt", text)
        self.page.press("#prompt", "Enter")

    def wait_for_answer(self) -> str:
        """The latest answer, once it has ended."""
        self.page.wait_for_selector("#send:visible")
        return str(self.page.locator("#log .answer").last.inner_text())

    def answer_with(self, *pieces: tuple[str, str]) -> None:
        """From now on the page gets these pieces (text, source) for answers, and the server is not asked."""
        body = stream_of(pieces)
        self.page.route(
            "**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream")
        )


def stream_of(pieces: Sequence[tuple[str, str]]) -> str:
    """A streamed answer as the server sends it."""
    timings = {
        "predicted_per_second": 12.3,
        "predicted_n": len(pieces),
        "cache_n": 1,
        "prompt_n": 2,
        "draft_n": 4,
        "draft_n_accepted": 3,
    }
    chunks: list[dict[str, Any]] = [
        {"choices": [{"delta": {"content": text}, "token_sources": [{"text": text, "source": source}]}]}
        for text, source in pieces
    ]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}], "timings": timings})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
