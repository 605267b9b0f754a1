"""The chat page in a real browser: languages, themes, a phone's width, keys, input methods and screen readers."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from support.engines.fake_engine import FakeEngine
from support.server.browser import Page
from support.server.live_server import LiveServer

CODE = "See:\n```python\nprint('" + "long " * 40 + "')\n```\nand " + "w" * 300

# Of every text that is seen: what stands on what, and their contrast by WCAG 2.1 (relative luminance).
CONTRASTS = """
const light = (c) => { const f = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const paper = (n) => { for (; n; n = n.parentElement) { const c = rgb(getComputedStyle(n).backgroundColor);
  if (c.length === 3 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
return [...document.querySelectorAll("body *")]
  .filter(n => n.checkVisibility({checkOpacity: true}) && n.tagName !== "OPTION"
    && [...n.childNodes].some(k => k.nodeType === 3 && k.data.trim()))
  .map(n => { const [a, b] = [light(rgb(getComputedStyle(n).color).slice(0, 3)), light(paper(n))];
    return [n.tagName + " " + n.innerText.slice(0, 30), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; });
"""
# Whatever can be operated, by what a screen reader calls it.
NAMELESS = """
return [...document.querySelectorAll("button, input, select, textarea, summary, [role=region], nav, aside, dialog")]
  .filter(n => !(n.getAttribute("aria-label") || n.textContent.trim() || n.labels?.[0]?.textContent.trim()
    || document.getElementById(n.getAttribute("aria-labelledby"))?.textContent.trim()) && n.checkVisibility())
  .map(n => n.outerHTML);
"""


@pytest.fixture
def page(driver: Chrome) -> Iterator[Page]:
    """Not opened yet. The server is page.engine's; at the end, nothing may stand in the browser's console."""
    with LiveServer(FakeEngine(["A sentence. ", "Another one", "! And", " the end"])) as server:
        page = Page(driver, server.url)
        yield page
        assert page.complaints() == []
        driver.get("about:blank")


def test_the_language_is_the_browsers_until_it_is_switched(page: Page) -> None:
    page.language("zh-CN")
    page.open()
    assert page.find("#send").text == "发送"
    assert page.js("return document.documentElement.lang") == "zh-CN"
    page.ask("你好")
    assert page.texts("article h3") == ["你", "GLM"]
    page.press("English")
    assert page.find("#send").text == "Send"
    assert page.js("return document.documentElement.lang") == "en"
    assert page.texts("article h3") == ["You", "GLM"]
    page.driver.refresh()
    assert page.find("#send").text == "Send"
    page.press("中文")
    assert page.find("#input").get_attribute("placeholder") == "输入消息"


def test_every_word_is_there_in_both_languages(page: Page) -> None:
    texts = "return [...document.querySelectorAll('[data-t], [data-label]')].map(n => n.textContent || n.ariaLabel)"
    english = page.open().js(texts)
    page.press("中文")
    chinese = page.js(texts)
    assert len(english) == len(chinese) > 30
    assert [text for text in english + chinese if not text or text == "undefined"] == []
    assert [a for a, b in zip(english, chinese, strict=True) if a == b] == []


def test_the_theme_is_the_systems_until_it_is_switched(page: Page) -> None:
    def theme() -> str:
        return str(page.js("return getComputedStyle(document.body).backgroundColor"))

    page.open()
    light = theme()
    page.colours("dark")
    page.until(lambda: theme() != light, "the dark theme")
    page.press("Light")
    assert theme() == light
    page.driver.refresh()
    assert theme() == light
    page.click("#settings-open")
    page.find("#theme-choice").send_keys("As the system")
    page.press("Save", "#settings")
    assert theme() != light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_at_least_aa_and_everything_has_a_name(driver: Chrome, scheme: str) -> None:
    engine = FakeEngine([CODE])
    engine.info = dataclasses.replace(engine.info, id="glm-edge-demo")
    with LiveServer(engine) as server:
        page = Page(driver, server.url)
        page.colours(scheme)
        page.open()
        page.ask("hi")
        page.until(lambda: page.shown("#demo"), "the banner of the demo model")
        assert "glm-edge convert CHECKPOINT" in page.find("#demo").text
        server.engine.close()
        page.ask("and now")
        assert page.shown(".trouble")
        for dialog in ("", "#settings-open"):
            if dialog:
                page.click(dialog)
            contrasts = page.js(CONTRASTS)
            assert len(contrasts) > 15
            assert [pair for pair in contrasts if pair[1] < 4.5] == []
            assert page.js(NAMELESS) == []


@pytest.mark.parametrize("width", [360, 390, 760, 1280])
def test_nothing_is_wider_than_the_screen(driver: Chrome, width: int) -> None:
    with LiveServer(FakeEngine([CODE])) as server:
        page = Page(driver, server.url)
        page.viewport(width, 700)
        page.open()
        page.ask("a question of " + "m" * 200)
        for opened in ("", "#settings-open"):
            if opened and width <= 760:
                page.click("#menu")
                page.until(lambda: page.find("#close").is_displayed(), "the menu")
            if opened:
                page.click(opened)
            wide = "return ['html', '#log'].map(s => document.querySelector(s)).map(n => n.scrollWidth - n.clientWidth)"
            assert page.js(wide) == [0, 0]
            assert page.js("return innerWidth") == width
        assert page.js("const b = document.querySelector('dialog[open]').getBoundingClientRect(); return b.left >= 0")


def test_a_long_formula_in_a_line_scrolls(driver: Chrome) -> None:
    moved = """
    return [...document.querySelectorAll(".inline .katex-base")].map((node) => {
      const fits = node.getBoundingClientRect().right <= node.closest("p").getBoundingClientRect().right;
      node.scrollLeft = 50;
      return [fits, node.scrollLeft, node.tabIndex];
    });"""
    with LiveServer(FakeEngine([r"Short $x_1$ and long $\frac{" + "a b c " * 40 + r"}{2}$."])) as server:
        page = Page(driver, server.url)
        page.viewport(1280, 700)
        page.open().ask("go")
        page.until(lambda: len(page.all(".inline .katex-base")) == 2, "the formulas")
        page.viewport(390, 700)
        page.until(lambda: page.js(moved) == [[True, 0, -1], [True, 50, 0]], "the long one scrolls")


def test_the_menu_of_a_phone_by_keyboard(page: Page) -> None:
    page.viewport(390, 844)
    page.open()
    page.ask("one")
    assert not page.shown("#side button")
    page.find("#menu").send_keys(Keys.ENTER)
    page.until(lambda: page.js("return document.activeElement.id") == "close", "focus in the menu")
    assert page.find("#menu").get_attribute("aria-expanded") == "true"
    page.find("#close").send_keys(Keys.ESCAPE)
    page.until(lambda: not page.shown("#side button"), "the closed menu")
    assert page.js("return document.activeElement.id") == "menu"


def test_tab_goes_through_all_in_order_and_what_has_the_focus_is_seen(driver: Chrome) -> None:
    seen = """
    const node = document.activeElement, frame = node.id === "input" ? node.parentElement : node;
    const {outlineStyle, boxShadow} = getComputedStyle(frame), {left, top, width} = node.getBoundingClientRect();
    const marked = outlineStyle !== "none" || boxShadow !== "none";
    return [node.id || node.innerText || node.tagName, marked && left >= 0 && top >= 0 && width > 0];"""
    with LiveServer(FakeEngine(["Code:\n```\nx = 1\n```"])) as server:
        page = Page(driver, server.url).open()
        page.ask("one")
        page.driver.refresh()
        page.js("document.activeElement.blur()")
        stops = []
        while not stops or stops[-1][0] != "send":
            page.driver.switch_to.active_element.send_keys(Keys.TAB)
            stops.append(page.js(seen))
            assert len(stops) < 30
    side = ["Skip to the message field", "new", "search", "one", "×", "import", "settings-open", "theme", "lang"]
    answer = ["Copy code", "x = 1", "Copy", "Raw text", "Try again"]
    main = ["rename", "Export", "log", "Copy", "Edit", *answer, "attach", "input", "send"]
    assert stops == [[name, True] for name in side + main]


def test_the_skip_link_leads_to_the_message_field(page: Page) -> None:
    page.open().js("document.querySelector('.skip').focus()")
    page.find(".skip").send_keys(Keys.ENTER)
    page.until(lambda: page.js("return document.activeElement.id") == "input", "the focus")


def test_an_input_methods_enter_does_not_send(page: Page) -> None:
    page.open().click("#input")
    page.cdp("Input.imeSetComposition", text="ni hao", selectionStart=6, selectionEnd=6)
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    page.cdp("Input.dispatchKeyEvent", type="keyDown", **enter)
    page.cdp("Input.dispatchKeyEvent", type="keyUp", **enter)
    assert page.texts("article") == []
    page.cdp("Input.insertText", text="你好")
    assert "你好" in page.find("#input").get_property("value")
    page.cdp("Input.dispatchKeyEvent", type="keyDown", **enter)
    page.until(lambda: page.texts("article.user .body") != [], "the message")


def test_screen_readers_are_given_whole_sentences(driver: Chrome) -> None:
    rest = threading.Event()
    with LiveServer(FakeEngine(["A sentence", ". 第二", "句。Then", rest, " the end"])) as server:
        page = Page(driver, server.url).open()
        page.type("go\n")
        live = "return document.querySelector('[aria-live=polite]').textContent"
        page.until(lambda: page.js(live) == "A sentence. 第二句。", "the first sentences")
        rest.set()
        page.until(lambda: page.js(live) == "A sentence. 第二句。Then the end", "the rest")


def test_empty_messages_are_not_sent(page: Page) -> None:
    page.open().type(" \n")
    assert page.texts("article") == []
