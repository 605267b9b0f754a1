"""The chat page in a real browser: conversations from files that others wrote, and what must come back from our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.engines.fake_engine import FakeEngine
from support.server.browser import Open, Page

LARGEST = 2**53 - 1  # Number.MAX_SAFE_INTEGER: JavaScript does not tell 2**53 and 2**53 + 1 apart


def bodies(page: Page) -> list[str]:
    return page.texts("article .body")


def read(page: Page, path: Path, text: str) -> None:
    """Import a file with this text, and wait until its conversation is shown."""
    path.write_text(text)
    before = len(page.texts("#list .chat"))
    page.find("#import-input").send_keys(str(path))
    page.until(lambda: len(page.texts("#list .chat")) > before, "the conversation")


@pytest.mark.parametrize("stored", [False, True], ids=["imported", "stored"])
def test_a_conversation_with_the_largest_ids_goes_on(open_page: Open, tmp_path: Path, stored: bool) -> None:
    page = open_page(FakeEngine(["fine"]))
    nodes = [
        {"id": LARGEST, "role": "user", "content": "a"},
        {"id": 7, "parent": LARGEST, "role": "assistant", "content": "chosen"},
        {"id": 5, "parent": LARGEST, "role": "assistant", "content": "later"},
    ]
    conversation: dict[str, Any] = {"nodes": nodes, "chosen": {str(LARGEST): 7, "7": 5, "x": 1}}
    if stored:
        text = json.dumps({**conversation, "id": "k1"})
        page.js("localStorage.setItem('glm-edge.chat.k1', arguments[0])", text)
        page.driver.refresh()
        page.press("a", "#list")
    else:
        read(page, tmp_path / "a.json", json.dumps({"conversation": conversation}))
    assert bodies(page) == ["a", "chosen"]
    assert page.texts(".branch") == ["1/2"]
    page.ask("b")
    page.driver.refresh()
    assert bodies(page) == ["a", "chosen", "b", "fine"]
    page.find("article.assistant .next").click()
    assert bodies(page) == ["a", "later"]


def test_only_an_answer_to_a_question_can_be_tried_again(open_page: Open, tmp_path: Path) -> None:
    engine = FakeEngine(["fine"])
    page = open_page(engine)
    said = [("assistant", "hi"), ("user", "a"), ("assistant", "b"), ("assistant", "c")]
    messages = [{"role": role, "content": content} for role, content in said]
    read(page, tmp_path / "a.json", json.dumps({"messages": messages}))
    assert bodies(page) == ["hi", "a", "b", "c"]
    assert ["Try again" in text for text in page.texts("article")] == [False, False, True, False]
    page.press("Try again", "article")
    page.until(lambda: bodies(page) == ["hi", "a", "fine"] and page.shown("#send"), "another answer")
    assert [message.content for message in engine.requests[0].messages] == ["hi", "a"]
