"""Answers in a real browser: Markdown while it comes, code, tables, links and formulas."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from support.engines.fake_engine import FakeEngine
from support.server.browser import Page
from support.server.live_server import LiveServer

ANSWER = r"""# A *title*
with text
and a second line, `code`, **strong**, ~~gone~~.

1. one
2. two
   - inner

     still inner

a line
#hash is no heading

```python
def f(x):
    # what
    return "y" + str(1)

```
a | b
:--|--:
1 | 2

> quoted
> - list

A link [to it](https://example.org/a?b=c "t"), <https://example.org/d>, https://example.org/e and [later][z].

$$
\frac{a}{b}
= c
$$

Inline $x^2$ and \(y\), \[z\], but $5 and $6.

Setext
------
* * *
`````
```
inner
```
`````

[z]: https://example.org/z
"""
HTML = "return document.querySelector('article.assistant .body').innerHTML"


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """Answers with what the question says, and "piecewise" with ANSWER in small pieces."""

    def script(request: object) -> list[str]:
        asked = request.messages[-1].content  # type: ignore[attr-defined]
        return [*ANSWER] if asked == "piecewise" else [asked]

    with LiveServer(FakeEngine(script)) as server:
        yield server


@pytest.fixture
def page(driver: Chrome, server: LiveServer) -> Iterator[Page]:
    page = Page(driver, server.url).open()
    page.click("#new")
    yield page
    assert page.complaints() == []


def insert(page: Page, text: str) -> None:
    """Ask with text that has line breaks."""
    page.find("#input").click()
    page.cdp("Input.insertText", text=text)
    page.ask("")


def test_an_answer_that_came_in_pieces_is_what_it_is_as_a_whole(page: Page) -> None:
    page.ask("piecewise")
    page.until(lambda: len(page.all(".katex")) == 4, "the formulas")
    pieces = page.js(HTML)
    page.driver.refresh()
    page.until(lambda: len(page.all(".katex")) == 4, "the formulas")
    assert page.js(HTML) == pieces
    inside = "return [...document.querySelectorAll('article.assistant .body > *')].map(n => n.tagName).join(' ')"
    assert page.js(inside) == "H4 P OL P DIV DIV BLOCKQUOTE P P P H5 HR DIV"
    assert page.texts("article.assistant li")[-1] == "list"
    assert page.texts("article.assistant .code pre") == [
        'def f(x):\n    # what\n    return "y" + str(1)\n',
        "```\ninner\n```",
    ]
    assert page.texts("article.assistant .hljs-keyword") == ["def", "return"]
    assert page.texts("article.assistant .code-head span") == ["python", ""]
    assert page.js("return getComputedStyle(document.querySelector('td.right')).textAlign") == "right"
    links = page.js("return [...document.querySelectorAll('article a')].map(n => n.href.slice(20) + n.rel)")
    assert links == [f"{end}noopener noreferrer" for end in ("a?b=c", "d", "e", "z")]
    assert "but $5 and $6." in page.texts("article.assistant .body")[0]


def test_what_is_over_stays_while_the_rest_comes(driver: Chrome) -> None:
    steps = [threading.Event(), threading.Event()]
    with LiveServer(FakeEngine(["# One\n\nTwo **bo", steps[0], "ld**\n\n- three\n- fo", steps[1], "ur"])) as server:
        page = Page(driver, server.url).open()
        page.type("go\n")
        page.until(lambda: page.texts("article.assistant .body p") == ["Two **bo"], "the beginning")
        steps[0].set()
        page.until(lambda: page.texts("article.assistant .body li") == ["three", "fo"], "the list")
        assert page.texts("article.assistant .body strong") == ["bold"]
        page.js("window.title = document.querySelector('.body h4')")
        steps[1].set()
        page.until(lambda: page.shown("#send"), "the end")
        assert page.texts("article.assistant .body li") == ["three", "four"]
        assert page.js("return title.isConnected")
        assert page.complaints() == []
        driver.get("about:blank")


def test_a_block_of_code_is_copied_by_its_button_and_the_raw_text_is_one_click_away(page: Page) -> None:
    page.cdp("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    text = "See **this**:\n```js\nlet a = '<b>';\n\n  a;\n```"
    insert(page, text)
    page.press("Copy code", "article")
    page.until(lambda: "Copied" in page.texts(".code-head button"), "the copy")
    read = "navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))"
    assert page.driver.execute_async_script(read) == "let a = '<b>';\n\n  a;"
    page.press("Raw text", "article.assistant")
    assert page.js("return document.querySelector('article.assistant .body').textContent") == text
    assert page.js("return document.activeElement.textContent") == "Formatted"
    page.press("Formatted", "article.assistant")
    assert page.texts("article.assistant strong") == ["this"]


def test_formulas_are_set_and_their_fonts_come_with_the_first_one(page: Page) -> None:
    loaded = "return performance.getEntriesByType('resource').filter(e => /katex/i.test(e.name)).map(e => e.name)"
    page.ask("no formula: $5, $ 6 $, \\$7$")
    assert page.js(loaded) == []
    page.ask("a formula: $\\sqrt{x}$, none: $\\nothing{$")
    page.until(lambda: page.all(".katex"), "the formula")
    page.until(lambda: any("woff2" in name for name in page.js(loaded)), "a font")
    assert page.texts("article code.unset") == ["\\nothing{"]
    assert page.js("return document.querySelector('.katex annotation').textContent") == "\\sqrt{x}"
