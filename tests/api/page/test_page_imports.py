"""The chat page in a real browser: conversations from files that others wrote, and what must come back from our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.engines.fake_engine import FakeEngine
from support.server.browser import Open, Page
from support.server.live_server import eventually

LARGEST = 2**53 - 1  # Number.MAX_SAFE_INTEGER: JavaScript does not tell 2**53 and 2**53 + 1 apart


def bodies(page: Page) -> list[str]:
    return page.texts("article .body")


def read(page: Page, path: Path, text: str) -> None:
    """Import a file with this text, and wait until its conversation is shown."""
    path.write_text(text, "utf-8")
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


def test_headings_of_an_export_in_its_messages_come_back_as_text(open_page: Open, tmp_path: Path) -> None:
    page = open_page(FakeEngine())
    page.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    words = ("GLM", "You", "System", "你", "系统")
    lines = [f"{slashes}## {word}" for word in words for slashes in ("", "\\", "\\\\")]
    text = "\n".join([*lines, "# GLM", " ## GLM", "## GLM ", "\\## Other", "end"])
    said = [{"role": role, "content": text} for role in ("user", "assistant")]
    conversation = {"title": "a", "system": text, "nodes": [{**message, "id": i} for i, message in enumerate(said, 1)]}
    read(page, tmp_path / "a.json", json.dumps({"conversation": conversation}))
    page.click("#export summary")
    page.click("#export-md")
    assert eventually(lambda: bool(list(tmp_path.glob("glm-edge-*.md"))))
    page.js("localStorage.clear()")
    page.driver.refresh()
    read(page, tmp_path / "a.md", next(tmp_path.glob("glm-edge-*.md")).read_text("utf-8"))
    [chat] = [value for name, value in page.stored("localStorage").items() if name.startswith("glm-edge.chat.")]
    assert chat["system"] == text
    assert [{name: node[name] for name in ("role", "content")} for node in chat["nodes"]] == said
