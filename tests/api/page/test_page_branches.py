"""The chat page in a real browser: branches, names, search, files in and out, system prompts, and a full context."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from glm_edge.types import Message, Request
from support.engines.fake_engine import FakeEngine
from support.server.browser import Open, Page
from support.server.live_server import eventually


def said(request: Request) -> list[str]:
    return [message.content for message in request.messages]


def numbered() -> FakeEngine:
    engine = FakeEngine(lambda _: [f"answer {len(engine.requests)}"])
    return engine


def bodies(page: Page) -> list[str]:
    return page.texts("article .body")


def edit(page: Page, number: int, text: str) -> None:
    """Edit the question with this number, send it, and wait for its answer."""
    page.all("article.user .edit")[number].click()
    page.find(".editor").clear()
    page.find(".editor").send_keys(text + "\n")
    page.until(lambda: not page.all(".editor") and page.shown("#send"), "the answer")


def test_an_edited_question_and_another_try_are_branches_and_all_are_kept(open_page: Open) -> None:
    engine = numbered()
    page = open_page(engine)
    page.ask("one")
    page.ask("two")
    edit(page, 0, "uno")
    assert bodies(page) == ["uno", "answer 3"]
    assert said(engine.requests[2]) == ["uno"]
    page.press("Try again", "article")
    page.until(lambda: bodies(page) == ["uno", "answer 4"], "another answer")
    page.ask("due")
    assert said(engine.requests[4]) == ["uno", "answer 4", "due"]
    assert page.texts(".branch") == ["2/2", "2/2"]

    page.find("article.assistant .before").click()
    assert bodies(page) == ["uno", "answer 3"]
    assert page.js("return document.activeElement.ariaLabel") == "Next version"  # the other arrow leads nowhere
    page.driver.refresh()
    assert bodies(page) == ["uno", "answer 3"]
    page.find("article.user .before").click()
    assert bodies(page) == ["one", "answer 1", "two", "answer 2"]
    page.press("Try again", "article")
    page.until(lambda: page.shown("#send") and len(bodies(page)) == 2, "another first answer")
    assert bodies(page) == ["one", "answer 6"]
    page.find("article.user .next").click()
    assert bodies(page) == ["uno", "answer 3"]
    page.find("article.assistant .next").click()
    assert bodies(page) == ["uno", "answer 4", "due", "answer 5"]


def test_editing_can_be_given_up(open_page: Open) -> None:
    page = open_page(numbered())
    page.ask("one")
    page.click("article.user .edit")
    page.find(".editor").send_keys(" more", Keys.ESCAPE)
    assert bodies(page) == ["one", "answer 1"]
    assert page.js("return document.activeElement.textContent") == "Edit"


def test_a_question_can_be_copied(open_page: Open) -> None:
    page = open_page(FakeEngine())
    page.cdp("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.ask("你好 <b>")
    page.press("Copy", "article.user")
    page.until(lambda: page.texts("article.user button")[0] == "Copied", "the copy")
    read = "navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))"
    assert page.driver.execute_async_script(read) == "你好 <b>"


def test_conversations_of_the_page_before_this_one_are_read_and_kept(open_page: Open) -> None:
    engine = numbered()
    page = open_page(engine)
    messages = [
        {"role": "user", "content": "unanswered", "meta": {}},
        {"role": "user", "content": "old", "meta": {}},
        {"role": "assistant", "content": "an answer", "meta": {"tokens": 3, "total": 1.5, "end": "stopped"}},
    ]
    old = {"id": "k1", "updated": 5, "system": "Be old.", "messages": messages}
    page.js("localStorage.setItem('glm-edge.chat.k1', arguments[0])", json.dumps(old))
    page.driver.refresh()
    page.press("unanswered", "#list")
    assert bodies(page) == ["unanswered", "old", "an answer"]
    assert page.texts(".figures") == ["stopped · 3 tokens · 1.5 s in all"]
    assert page.find("#system-line").text == "System prompt: Be old."
    page.ask("new")
    assert said(engine.requests[0]) == ["Be old.", "old", "an answer", "new"]
    page.driver.refresh()
    assert bodies(page) == ["unanswered", "old", "an answer", "new", "answer 1"]


def test_what_follows_an_empty_answer_is_kept(open_page: Open) -> None:
    answers = iter([[""], ["fine"]])
    page = open_page(FakeEngine(lambda _: next(answers)))
    page.ask("one")
    page.ask("two")
    page.driver.refresh()
    assert bodies(page) == ["one", "", "two", "fine"]


def test_renaming_and_searching(open_page: Open) -> None:
    page = open_page(FakeEngine(lambda request: ["The Danube is long."] if "river" in said(request)[0] else ["fine"]))
    for question in ("a river", "another"):
        page.click("#new")
        page.ask(question)
    page.click("#rename")
    page.find("#new-title").send_keys("Renamed\n")
    assert page.find("#title").text == "Renamed"
    page.driver.refresh()
    assert page.texts("#list .chat") == ["Renamed", "a river"]
    search = page.find("#search")
    for words, found in (("danube", ["a river\nThe Danube is long."]), ("renam", ["Renamed"]), ("nowhere", [])):
        search.clear()
        search.send_keys(words)
        page.until(lambda found=found: page.texts("#list .chat") == found, words)
    assert page.find("#not-found").text == "Nothing has these words."


@pytest.mark.parametrize("kind", ["json", "md"])
def test_what_was_exported_is_imported(open_page: Open, kind: str, tmp_path: Path) -> None:
    page = open_page(numbered())
    page.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.click("#settings-open")
    page.find("#system").send_keys("Be brief.")
    page.press("Save", "#settings")
    page.ask("one")
    edit(page, 0, "uno")
    page.click("#export summary")
    page.click(f"#export-{kind}")
    assert eventually(lambda: bool(list(tmp_path.glob(f"glm-edge-*.{kind}"))))
    page.js("localStorage.clear()")
    page.driver.refresh()
    assert bodies(page) == []
    page.find("#import-input").send_keys(str(next(tmp_path.glob(f"glm-edge-*.{kind}"))))
    page.until(lambda: bodies(page) == ["uno", "answer 2"], "the conversation")
    assert page.find("#title").text == "uno"
    assert page.find("#system-line").text == "System prompt: Be brief."
    assert page.texts(".branch") == (["2/2"] if kind == "json" else [])
    (tmp_path / "other.json").write_text('{"messages": [{"role": "x"}]}')
    page.find("#import-input").send_keys(str(tmp_path / "other.json"))
    page.until(lambda: page.shown("#import-problem"), "the refusal")
    assert page.find("#import-problem").text == "other.json holds no conversation that was exported here."


def test_a_system_prompt_belongs_to_its_conversation(open_page: Open) -> None:
    engine = FakeEngine()
    page = open_page(engine)
    for words, also in (("First.", True), ("Second.", False)):
        page.click("#new")
        page.ask("hi")
        if page.shown("#system-line"):
            page.click("#system-line")
            page.until(lambda: page.js("return document.activeElement.id") == "system", "the field")
        else:
            page.click("#settings-open")
        page.find("#system").clear()
        page.find("#system").send_keys(words)
        if page.find("#system-new").is_selected() != also:
            page.click("#system-new")
        page.press("Save", "#settings")
        page.ask("and")
        assert engine.requests[-1].messages[0] == Message("system", words)
    page.click("#new")
    assert page.find("#system-line").text == "System prompt: First."


def test_settings_of_sampling_go_with_the_request(open_page: Open) -> None:
    engine = FakeEngine()
    page = open_page(engine)
    page.ask("hi")
    before = engine.requests[0].sampling
    page.click("#settings-open")
    page.click(".more summary")
    given = {"top_p": 0.5, "top_k": 7, "seed": 42, "presence_penalty": -1, "frequency_penalty": 1.5}
    given["repetition_penalty"] = 1.25
    for name, value in given.items():
        page.find(f"#{name}").send_keys(str(value))
    page.press("Save", "#settings")
    page.ask("hi")
    sampling = engine.requests[1].sampling
    assert {name: getattr(sampling, name) for name in given} == given
    assert (before.top_p, before.top_k, before.repetition_penalty) == (0.8, 0, 1)


def test_a_full_context_leaves_old_rounds_out_and_says_so(open_page: Open) -> None:
    engine = FakeEngine(["fine"], n_ctx=64)
    page = open_page(engine)
    for number in range(6):
        page.ask(f"question {number} " + "x" * 8)
    assert page.texts(".trouble") == []
    assert said(engine.requests[-1])[0] != "question 0 xxxxxxxx"
    assert "oldest 4 rounds were left out" in page.texts(".trimmed")[-1]
    page.driver.refresh()
    assert "oldest 4 rounds were left out" in page.texts(".trimmed")[-1]


def test_a_question_that_is_too_long_is_edited_and_asked_again(open_page: Open) -> None:
    engine = FakeEngine(["fine"], n_ctx=64)
    page = open_page(engine)
    page.ask("before")
    page.ask("x" * 100)
    assert "The question alone is too long" in page.texts(".trouble p")[0]
    page.press("Edit the question", ".trouble")
    page.find(".editor").clear()
    page.find(".editor").send_keys("short\n")
    page.until(lambda: bodies(page)[-2:] == ["short", "fine"], "the answer")
    assert said(engine.requests[-1]) == ["before", "fine", "short"]
    assert page.texts(".trouble") == []


def test_text_files_go_with_the_question(open_page: Open, tmp_path: Path) -> None:
    engine = FakeEngine(["fine"])
    page = open_page(engine)
    files = {"a.txt": "one\r\ntwo\n", "中.csv": "``` 天"}
    (tmp_path / "a.txt").write_bytes(files["a.txt"].encode())
    (tmp_path / "中.csv").write_bytes(files["中.csv"].encode("gb18030"))
    (tmp_path / "b.bin").write_bytes(bytes(range(256)))
    (tmp_path / "c.txt").write_text("x" * (256 * 1024 + 1))
    page.find("#file-input").send_keys("\n".join(str(tmp_path / name) for name in (*files, "b.bin", "c.txt")))
    page.until(lambda: page.texts("#files span") == ["a.txt", "中.csv"], "the files")
    assert page.find("#file-problem").text == "b.bin is not a text file. c.txt has more than 256 KiB."
    page.ask("what is it?")
    assert said(engine.requests[0]) == ["a.txt:\n```\none\ntwo\n```\n\n中.csv:\n````\n``` 天\n````\n\nwhat is it?"]
    assert not page.shown("#files")
    page.driver.refresh()
    assert page.texts(".file summary") == ["a.txt", "中.csv"]
    edit(page, 0, "what else?")
    assert said(engine.requests[1])[0].endswith("````\n\nwhat else?")


def test_a_dropped_file_is_taken_and_can_be_left_out(open_page: Open) -> None:
    engine = FakeEngine(["fine"])
    page = open_page(engine)
    drop = """
    const data = new DataTransfer();
    for (const name of ["a.txt", "b.txt"]) data.items.add(new File(["text of " + name], name));
    const event = (type) => new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true});
    return ["dragover", "drop"].map(type => document.querySelector("#log").dispatchEvent(event(type)));"""
    assert page.js(drop) == [False, False]  # the browser does not open them in place of the page
    page.until(lambda: page.texts("#files span") == ["a.txt", "b.txt"], "the files")
    page.find("[aria-label='Leave out: a.txt']").click()
    assert page.texts("#files span") == ["b.txt"]
    page.type(Keys.ENTER)
    page.until(lambda: page.texts("article.assistant .body") == ["fine"], "the answer")
    assert said(engine.requests[0]) == ["b.txt:\n```\ntext of b.txt\n```"]
    assert page.texts("#list .chat") == ["b.txt"]


def test_an_adapter_is_chosen_in_the_settings(open_page: Open) -> None:
    engine = numbered()
    page = open_page(engine)
    page.click("#settings-open")
    assert not page.shown("#model-row")  # nothing to choose from
    page.click("#settings [data-close]")
    engine.info = replace(engine.info, adapters=("tea", "adgen"))
    page = page.open()
    page.click("#settings-open")
    assert [option.text for option in page.all("#model-choice option")] == ["chatglm2-6b", "tea", "adgen"]
    page.find("#model-choice").send_keys("tea")
    page.click("#settings button[type=submit]")
    page.ask("who are you?")
    assert engine.requests[-1].adapter == "tea"
    page.click("#settings-open")
    page.find("#model-choice").send_keys("chatglm2-6b")
    page.click("#settings button[type=submit]")
    page.ask("and now?")
    assert engine.requests[-1].adapter is None
