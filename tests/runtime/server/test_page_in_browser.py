"""The web page in a real browser, with a real server: what users do, and what a hostile model could try."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.server.browser import DESKTOP, PHONE, Visit, chromium
from tests.runtime.server.serving import Server, serving

pytestmark = pytest.mark.slow

# WCAG 2.2, 1.4.3: text needs this contrast with what is behind it.
READABLE = 4.5
# The smallest contrast of visible texts with the first opaque colour behind them, by the standard's formula.
CONTRASTS = """() => {
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const ratio = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!hasText || !element.checkVisibility() || element.tagName === "OPTION") continue;
    const text = luminance(parse(getComputedStyle(element).color));
    found.push([ratio(text, luminance(behind(element))), element.tagName + "." + element.className]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page_server(random_bundle: Path) -> Iterator[Server]:
    with serving(random_bundle, "--drafter", "suffix") as running:
        yield running


def test_a_conversation(browser: Any, page_server: Server) -> None:
    with Visit(browser, page_server.root) as visit:
        page = visit.page
        visit.wait_for_plan()
        page.fill("#max_tokens", "30")
        page.fill("#system", "Be kind.")
        visit.say("Hello")
        first = visit.wait_for_answer()
        assert first
        below = page.locator(".below").last.inner_text()
        assert "tokens/s" in below
        assert "30 tokens" in below
        page.get_by_role("button", name="Regenerate").click()
        assert visit.wait_for_answer() == first, "greedy answers are the same text again"
        assert page.locator("#log > li").count() == 2
        page.fill("#temperature", "1.5")
        page.get_by_role("button", name="Regenerate").click()
        assert visit.wait_for_answer() != first
        page.check("#coloured")
        assert visit.wait_for_answer()
        page.fill("#top_p", "7")
        visit.say("more")
        assert page.locator("#error").inner_text().startswith("Top p: ")
        assert page.input_value("#prompt") == "more", "what was typed is not lost"
        page.fill("#top_p", "")
        page.press("#prompt", "Enter")
        visit.wait_for_answer()
        assert page.locator("#log > li").count() == 4
        page.click("#new-chat")
        assert page.locator("#log > li").count() == 0
        assert visit.complaints == []


def test_an_answer_is_stopped_and_stays(browser: Any, page_server: Server) -> None:
    with Visit(browser, page_server.root) as visit:
        visit.wait_for_plan()
        visit.answer_with(("never", "target"))
        visit.page.unroute("**/v1/chat/completions")
        visit.page.route("**/v1/chat/completions", lambda route: None)
        visit.say("Hello")
        visit.page.click("#stop")
        visit.page.wait_for_selector("#send:visible")
        assert visit.page.input_value("#prompt") == "Hello", "a message without an answer comes back"
        visit.page.unroute("**/v1/chat/completions")
        visit.say("Hello")
        visit.wait_for_answer()
        assert visit.page.locator("#log > li").count() == 2


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=str)
def test_a_message_is_edited_and_answered_from_there(browser: Any, page_server: Server, size: tuple[int, int]) -> None:
    with Visit(browser, page_server.root, size) as visit:
        page = visit.page
        visit.wait_for_plan()
        page.evaluate("document.getElementById('max_tokens').value = 8")
        for text in ("one", "two", "three"):
            visit.say(text)
            visit.wait_for_answer()
        second = page.locator("#log > li.user").nth(1)
        second.get_by_role("button", name="Edit").press("Enter")
        field = page.get_by_label("Your message")
        assert field.input_value() == "two"
        field.press("Escape")
        assert second.get_by_role("button", name="Edit").evaluate("button => button === document.activeElement")
        second.get_by_role("button", name="Edit").click()
        field.fill("")
        field.press("Enter")
        field.fill("other\nlines")
        with page.expect_request("**/v1/chat/completions") as sent:
            field.press("Enter")
        asked = sent.value.post_data_json["messages"]
        assert [message["content"] for message in asked if message["role"] == "user"] == ["one", "other\nlines"]
        visit.wait_for_answer()
        assert page.locator("#log .said").all_inner_texts() == ["one", "other\nlines"]
        assert page.locator("#log > li").count() == 4
        assert visit.complaints == []


def test_an_edit_without_an_answer_changes_nothing(browser: Any, page_server: Server) -> None:
    with Visit(browser, page_server.root) as visit:
        page = visit.page
        visit.wait_for_plan()
        visit.answer_with(("Yes.", "target"))
        for text in ("one", "two"):
            visit.say(text)
            visit.wait_for_answer()
        page.unroute("**/v1/chat/completions")
        page.route("**/v1/chat/completions", lambda route: None)
        page.get_by_role("button", name="Edit").first.click()
        page.get_by_label("Your message").fill("other")
        page.get_by_role("button", name="Send again").click()
        assert page.get_by_role("button", name="Edit").count() == 0, "nothing is edited while an answer is given"
        page.click("#stop")
        page.wait_for_selector("#send:visible")
        assert page.locator("#log .said").all_inner_texts() == ["one", "two"]
        assert page.locator("#log .answer").all_inner_texts() == ["Yes.", "Yes."]
        assert page.input_value("#prompt") == "other"


TABLES = r"""Before
| Name | *Age* | <b>x</b> |
| :--- | ---: | :-: |
| Ann \| Bo | 7 | <img src=x onerror=alert(1)> | extra |
short
`a` | [bad](javascript:alert(2)) | [good](https://example.org/)

no | table
one line

> a | b
> --- | ---
> c | d

| | |
"""


def test_tables_are_text_in_cells(browser: Any, page_server: Server) -> None:
    with Visit(browser, page_server.root, PHONE) as visit:
        visit.wait_for_plan()
        visit.answer_with((TABLES + "|" * 3000 + "\n" + "|-" * 1500 + "|", "target"))
        visit.say("Hello")
        visit.wait_for_answer()
        answer = visit.page.locator("#log .answer").last
        first = answer.locator("table").first
        assert first.locator("th").all_inner_texts() == ["Name", "Age", "<b>x</b>"]
        rows = first.locator("tbody tr").evaluate_all(
            "rows => rows.map((row) => [...row.cells].map((cell) => cell.innerText))"
        )
        assert rows == [
            ["Ann | Bo", "7", "<img src=x onerror=alert(1)>"],
            ["short"],
            ["a", "[bad](javascript:alert(2))", "good"],
        ]
        assert first.locator("th").evaluate_all("cells => cells.map((cell) => getComputedStyle(cell).textAlign)") == [
            "left",
            "right",
            "center",
        ]
        assert answer.locator("blockquote table td").all_inner_texts() == ["c", "d"]
        assert answer.locator("img, script, b").count() == 0
        assert answer.locator("p").first.inner_text() == "Before"
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        assert visit.complaints == []


def test_the_budget_is_changed_with_the_keyboard(browser: Any, page_server: Server) -> None:
    with Visit(browser, page_server.root) as visit:
        visit.wait_for_plan()
        slider = visit.page.locator("#budget")
        before = slider.input_value()
        slider.press("Home")
        visit.page.locator("#plan-given-up > li").first.wait_for()
        summary = visit.page.locator("#plan-summary").inner_text()
        assert slider.input_value() < before
        slider.press("End")
        visit.page.locator("#plan-given-up:empty").wait_for(state="attached")
        assert visit.page.locator("#plan-summary").inner_text() != summary
        assert visit.complaints == []


HOSTILE = (
    r"""# <img src=x onerror=alert(1)>
<script>alert(2)</script> **bold <b>no</b>** [bad](javascript:alert(3)) [data](data:text/html,x) [good](https://example.org/a?b=c)
![picture](https://example.org/x.png) `code <i>` ~~gone~~ _em_ snake_case_name https://example.org/auto.

> quote
> > deeper

1. one
   - inner *a*
2. two

```html
<script>alert(4)</script>
```
---
"""
    + "[" * 5000
    + "*" * 5000
    + "> " * 300
)


def test_markdown_is_text_and_nothing_else(browser: Any, page_server: Server) -> None:
    with Visit(browser, page_server.root) as visit:
        page = visit.page
        visit.wait_for_plan()
        visit.answer_with((HOSTILE, "target"))
        visit.say("Hello")
        shown = visit.wait_for_answer()
        answer = page.locator("#log .answer").last
        assert "<script>alert(2)</script> bold <b>no</b> [bad](javascript:alert(3))" in shown
        assert answer.locator("script, img, iframe, b, i, style").count() == 0
        links = answer.locator("a").evaluate_all(
            "links => links.map((link) => [link.href, link.textContent, link.rel])"
        )
        rel = "noopener noreferrer nofollow"
        assert links == [
            ["https://example.org/a?b=c", "good", rel],
            ["https://example.org/x.png", "picture", rel],
            ["https://example.org/auto", "https://example.org/auto", rel],
        ]
        assert answer.locator("h3").inner_text() == "<img src=x onerror=alert(1)>"
        assert answer.locator("strong").first.inner_text() == "bold <b>no</b>"
        assert answer.locator("em").all_inner_texts() == ["em", "a"]
        assert answer.locator("ol > li").count() == 2
        assert answer.locator("ol > li ul > li").count() == 1
        assert answer.locator("blockquote blockquote").count() >= 1
        assert answer.locator("pre code").inner_text() == "<script>alert(4)</script>\n"
        assert visit.complaints == []


def test_drafted_text_has_the_colour_of_its_source(browser: Any, page_server: Server) -> None:
    with Visit(browser, page_server.root) as visit:
        page = visit.page
        visit.wait_for_plan()
        pieces = [("**On", "target"), ("ce** up", "near"), ("on a\n\n- ti", "suffix"), ("me", "target"), ("!", "near")]
        visit.answer_with(*pieces)
        visit.say("Hello")
        plain = visit.wait_for_answer()
        assert page.locator(".drafted").count() == 0
        page.check("#coloured")
        coloured = page.locator(".drafted").evaluate_all("spans => spans.map((span) => [span.textContent, span.title])")
        near, suffix = "drafted by near", "drafted by suffix"
        assert coloured == [["ce", near], [" up", near], ["on a", suffix], ["ti", suffix], ["!", near]]
        assert visit.wait_for_answer() == plain
        assert page.locator(".below .key").all_inner_texts() == ["near", "suffix"]
        assert "accepted 3 of 4 drafted (75%)" in page.locator(".below").inner_text()


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Any, random_bundle: Path) -> None:
    with (
        serving(random_bundle, POCKETSPEC_API_KEY="the secret") as server,
        Visit(browser, server.root) as visit,
    ):
        for key in ("wrong", "the secret"):
            visit.page.wait_for_selector("#key-dialog[open]")
            visit.page.fill("#key", key)
            visit.page.press("#key", "Enter")
        visit.wait_for_plan()
        visit.page.reload()
        visit.wait_for_plan()
        assert not visit.page.locator("#key-dialog").is_visible()
        assert visit.context.storage_state()["origins"] == [], "the key is not kept on the disk"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 568)], ids=str)
def test_it_is_readable(browser: Any, page_server: Server, scheme: str, size: tuple[int, int]) -> None:
    with Visit(browser, page_server.root, size, scheme) as visit:
        page = visit.page
        visit.wait_for_plan()
        sources = ["target", *(f"drafter {number}" for number in range(6))]
        visit.answer_with(
            *((f"{source} `{'x' * 60}` ", source) for source in sources),
            ("\n\na | b\n--- | ---\nc | " + "d" * 99 + "\n```\n" + "y" * 300, "target"),
        )
        visit.say("z" * 300)
        visit.wait_for_answer()
        page.evaluate("document.getElementById('coloured').click()")
        page.get_by_role("button", name="Edit").click()
        for is_open in (False, True):
            if is_open and size != DESKTOP:
                page.click("#panel-toggle")
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            bad = [found for found in page.evaluate(CONTRASTS) if found[0] < READABLE]
            assert bad == []


def test_everything_is_reached_with_the_keyboard(browser: Any, page_server: Server) -> None:
    with Visit(browser, page_server.root, PHONE) as visit:
        page = visit.page
        visit.wait_for_plan()
        page.evaluate("document.activeElement.blur()")
        reached = []
        for _ in range(8):
            page.keyboard.press("Tab")
            focus = page.evaluate(
                "() => [document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
            )
            reached.append(focus[0])
            assert focus[1] == "solid" or not focus[0], focus
        assert {"new-chat", "panel-toggle", "log", "prompt", "send"} <= set(reached)
        page.focus("#panel-toggle")
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.id") == "panel-toggle"
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll("input, select, textarea, button")]
              .filter((field) => !field.labels?.length && !field.textContent.trim()).map((field) => field.id)"""
        )
        assert unnamed == []
