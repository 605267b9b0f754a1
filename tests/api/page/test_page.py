"""The chat page in a real browser: whole conversations, what is kept, and what goes to the server."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from glm_edge.errors import EngineError
from glm_edge.types import Message, Request
from support.engines.fake_engine import FakeEngine
from support.server.browser import Open
from support.server.live_server import eventually


def said(request: Request) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in request.messages]


def echo(request: Request) -> list[str]:
    return ["You said: ", *request.messages[-1].content]


def test_a_whole_conversation(open_page: Open) -> None:
    engine = FakeEngine(echo)
    page = open_page(engine)
    page.ask("你好")
    assert page.texts("article .body") == ["你好", "You said: 你好"]
    page.ask("and\ue008\ue007\ue000more")  # Shift+Enter: a new line
    assert page.texts("article .body")[2:] == ["and\nmore", "You said: and\nmore"]
    assert said(engine.requests[1]) == [("user", "你好"), ("assistant", "You said: 你好"), ("user", "and\nmore")]

    page.click("#new")
    assert page.texts("article") == []
    page.ask("second")
    assert said(engine.requests[2]) == [("user", "second")]
    assert page.texts("#list .chat") == ["second", "你好"]
    page.driver.refresh()
    assert page.texts("article .body") == ["second", "You said: second"]
    page.press("你好", "#list")
    page.ask("third")
    assert len(engine.requests[3].messages) == 5
    assert page.texts("#list .chat") == ["你好", "second"]


def test_the_answer_is_shown_as_it_comes_with_its_speed_at_the_end(open_page: Open) -> None:
    rest = threading.Event()
    page = open_page(FakeEngine(["Once ", "upon", rest, " a", 0.05, " time"]))
    page.type("a story\n")
    page.until(lambda: page.texts("article.assistant .body") == ["Once upon"], "the first words")
    assert page.shown("#stop")
    assert page.find("#messages").get_attribute("aria-busy") == "true"
    rest.set()
    page.until(lambda: page.shown("#send"), "the end")
    assert page.texts("article.assistant .body") == ["Once upon a time"]
    under = page.texts("article.assistant .under")[0]
    for words in ("4 tokens", "tokens/s", "first word after", "s in all", "question 7 tokens"):
        assert words in under
    page.driver.refresh()
    assert "4 tokens" in page.texts("article.assistant .under")[0]


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_ends_the_answer_and_keeps_what_came(open_page: Open, how: str) -> None:
    engine = FakeEngine(["some", threading.Event(), "more"])
    page = open_page(engine)
    page.type("go\n")
    page.until(lambda: page.texts("article.assistant .body") == ["some"], "the first word")
    page.click("#stop") if how == "button" else page.type(Keys.ESCAPE)
    page.until(lambda: page.shown("#send"), "the end")
    assert eventually(lambda: engine.generations[0].cancelled)
    assert page.texts("article.assistant .body") == ["some"]
    assert "stopped" in page.texts("article.assistant .under")[0]
    assert page.js("return document.activeElement.id") == "input"


def test_try_again_asks_the_last_question_anew(open_page: Open) -> None:
    engine = FakeEngine(lambda _: [f"answer {len(engine.requests)}"])
    page = open_page(engine)
    page.ask("question")
    page.press("Try again", "article")
    page.until(lambda: page.texts("article .body") == ["question", "answer 2"], "the second answer")
    assert said(engine.requests[1]) == [("user", "question")]


def test_settings_go_with_the_request(open_page: Open) -> None:
    engine = FakeEngine()
    page = open_page(engine)
    page.click("#settings-open")
    page.find("#system").send_keys("Be brief.")
    for field, value in (("#temperature", "0.25"), ("#length", "1")):
        page.find(field).clear()
        page.find(field).send_keys(value)
    page.press("Save", "#settings")
    page.ask("hi")
    request = engine.requests[0]
    assert request.messages == (Message("system", "Be brief."), Message("user", "hi"))
    assert (request.sampling.temperature, request.max_tokens) == (0.25, 1)
    under = page.texts("article.assistant .under")[0]
    assert "stopped at the length limit" in under
    assert "1 token " in under
    page.driver.refresh()
    page.click("#settings-open")
    assert page.find("#temperature").get_property("value") == "0.25"
    assert page.find("#system").get_property("value") == "Be brief."


def test_a_full_server_is_told_in_words_and_can_be_asked_again(open_page: Open) -> None:
    rest = threading.Event()
    engine = FakeEngine(["one", rest], slots=1, waiting=0)
    page = open_page(engine)
    page.type("first\n")
    page.until(lambda: page.texts("article.assistant .body") == ["one"], "the first word")
    page.click("#new")
    page.ask("second")
    assert "busy" in page.texts(".trouble p")[0]
    assert "Try again in 4 s" in page.texts(".trouble p")[0]
    rest.set()
    assert eventually(lambda: engine.live == 0)
    page.press("Try again", ".trouble")
    page.until(lambda: page.texts("article.assistant .body") == ["one"], "the answer")
    assert not page.shown(".trouble")
    assert len(engine.requests) == 2


def test_an_answer_that_breaks_keeps_what_came_and_says_so(open_page: Open) -> None:
    page = open_page(FakeEngine(["half", 0.3, EngineError("out of luck")]))
    page.ask("hi")
    assert page.texts("article.assistant .body") == ["half"]
    assert "The server failed" in page.texts(".trouble p")[0]
    assert "cut short" in page.texts("article.assistant .under")[0]


def test_two_conversations_are_answered_at_once(open_page: Open) -> None:
    rest = threading.Event()
    page = open_page(FakeEngine(lambda request: ["slow", rest, " one"] if said(request)[0][1] == "a" else ["fast"]))
    page.type("a\n")
    page.until(lambda: page.texts("article.assistant .body") == ["slow"], "the first word")
    page.click("#new")
    page.ask("b")
    rest.set()
    page.press("a", "#list")
    page.until(lambda: page.texts("article.assistant .body") == ["slow one"], "the other answer")


def test_deleting_one_and_all(open_page: Open) -> None:
    page = open_page(FakeEngine())
    for words in ("one", "two", "three"):
        page.click("#new")
        page.ask(words)
    page.find("[aria-label='Delete: three']").click()
    page.driver.switch_to.alert.accept()
    assert page.texts("#list .chat") == ["two", "one"]
    page.click("#settings-open")
    page.press("Delete all conversations", "#settings")
    page.driver.switch_to.alert.accept()
    assert page.texts("#list .chat") == []
    assert not any(name.startswith("glm-edge.chat") for name in page.stored("localStorage"))


@pytest.mark.parametrize("kind", ["json", "md"])
def test_a_conversation_can_be_saved_as_a_file(open_page: Open, kind: str, tmp_path: Path) -> None:
    page = open_page(FakeEngine(["fine"]))
    page.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.ask("how are you")
    page.click("#export summary")
    page.click(f"#export-{kind}")
    assert eventually(lambda: bool(list(tmp_path.glob(f"glm-edge-*.{kind}"))))
    text = next(tmp_path.glob(f"glm-edge-*.{kind}")).read_text("utf-8")
    if kind == "json":
        saved = json.loads(text)
        assert saved["model"] == "chatglm2-6b"
        assert [node["content"] for node in saved["conversation"]["nodes"]] == ["how are you", "fine"]
        assert saved["messages"] == [
            {"role": "user", "content": "how are you"},
            {"role": "assistant", "content": "fine"},
        ]
    else:
        assert text == "# how are you\n\n## You\n\nhow are you\n\n## GLM\n\nfine\n"


def test_copy_takes_the_answer(open_page: Open) -> None:
    page = open_page(FakeEngine(["你好 <b>"]))
    page.cdp("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.ask("hi")
    page.press("Copy", "article.assistant")
    page.until(lambda: page.texts("article.assistant button")[0] == "Copied", "the copy")
    read = "navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))"
    assert page.driver.execute_async_script(read) == "你好 <b>"


def test_storage_that_others_broke_does_no_harm(open_page: Open) -> None:
    page = open_page(FakeEngine())
    page.ask("good")
    page.js(
        """const good = Object.keys(localStorage).find(k => k.startsWith("glm-edge.chat."));
        const bad = ["{", "null", "5", "[]", '{"id": "x"}', '{"id": "4", "messages": [{"role": "user"}, 7]}'];
        bad.forEach((text, i) => localStorage.setItem("glm-edge.chat." + i, text));
        const settings = {lang: "toString", theme: 7, temperature: "hot", length: -1};
        localStorage.setItem("glm-edge.settings", JSON.stringify(settings));
        localStorage.setItem("glm-edge.key", "[");
        sessionStorage.setItem("glm-edge.current", "{");"""
    )
    page.driver.refresh()
    assert page.texts("#list .chat") == ["good"]
    page.ask("works")


def test_a_full_storage_is_told_and_the_chat_goes_on(open_page: Open) -> None:
    engine = FakeEngine()
    page = open_page(engine)
    page.js(
        """for (let size = 2 ** 22; size >= 1; size = size / 2 | 0) {
          try { for (let i = 0; ; i++) localStorage.setItem(`other.${size}.${i}`, "x".repeat(size)); } catch {}
        }"""
    )
    page.ask("hi")
    assert "storage is full" in page.texts("#notice p")[0]
    page.ask("again")
    assert len(engine.requests[1].messages) == 3


def test_what_the_server_refuses_in_a_text_does_not_end_a_conversation(open_page: Open) -> None:
    engine = FakeEngine(["a\0b"])
    page = open_page(engine)
    page.ask("one")
    page.ask("two")
    assert page.texts(".trouble") == []
    assert said(engine.requests[1]) == [("user", "one"), ("assistant", "a\ufffdb"), ("user", "two")]
