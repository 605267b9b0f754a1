"""Hostile answers in a real browser: nothing runs, nothing loads, and the page stays alive."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from selenium.webdriver import Chrome

from support.engines.fake_engine import FakeEngine
from support.server.browser import Page
from support.server.live_server import LiveServer

# TRAP is the address of a server that nobody may ask.
ATTACKS = [
    "<script>document.title='broken'</script>",
    "<img src=TRAP/a onerror=\"document.title='broken'\">",
    "<svg/onload=document.title='broken'><image href=TRAP/b /></svg>",
    "<style>@import 'TRAP/c'; * { display: none }</style>",
    "<iframe src=TRAP/d></iframe><object data=TRAP/e></object><link rel=stylesheet href=TRAP/f><base href=TRAP/>",
    "<form action=TRAP/g><button autofocus onfocus=document.title='broken'>x</button></form>",
    "<math><mtext><table><mglyph><style><img src=TRAP/h onerror=document.title='broken'>",
    "[x](javascript:document.title='broken') [x](JaVaScRiPt&colon;document.title='broken')",
    "[x](data:text/html,<script>document.title='broken'</script>) [x](vbscript:x) [x](file:///etc/passwd) [x](/livez)",
    "![x](TRAP/i.png) ![x](data:image/svg+xml,<svg/onload=document.title='broken'>) [![x](TRAP/j.png)](TRAP/k)",
    "[x](TRAP/l 'a\" onmouseover=\"document.title=1') <TRAP/m> TRAP/n [y]\n\n[y]: TRAP/o",
    "```html\" onload=\"document.title='broken'\n<img src=TRAP/p onerror=document.title='broken'>\n```",
    "```</code><script>document.title='broken'</script>\n</code></pre><script>document.title='broken'</script>\n```",
    "$\\href{javascript:document.title='broken'}{x}$ $\\url{TRAP/q}$ $\\includegraphics{TRAP/r}$",
    "$\\htmlData{a=b}{x}$ $\\htmlId{messages}{x}$ $\\htmlStyle{position:fixed}{x}$ $\\htmlClass{trouble}{x}$",
    "$$\\def\\a{\\a\\a}\\a$$\n\n$$\\rule{100000em}{100000em}$$\n\n$\\text{<img src=TRAP/s onerror=alert(1)>}$",
    "$\\fbox{x}\\colorbox{red}{x}\\phase{x}\\cancel{x}\\overbrace{x}\\sqrt{x}\\vec{x}\\begin{array}{|c:c|}a\\end{array}$",
    "a | b\n:-: | -:\n<img src=TRAP/t onerror=alert(1)> | <b>x</b>",
    "&lt;script&gt; &#x202e; \u202e\u0000 &amp;lt;",
]
SEEN = """
window.seen = [];
document.addEventListener("securitypolicyviolation", (event) => seen.push(event.violatedDirective + event.blockedURI));
window.addEventListener("error", (event) => seen.push(event.message));
"""
TAGS = re.compile(
    "A|ARTICLE|BLOCKQUOTE|BR|BUTTON|CODE|DIV|EM|H[3-6]|HR|LI|OL|P|PRE|S|SPAN|STRONG|T(ABLE|BODY|D|H|HEAD|R)|UL"
)


@contextmanager
def trap() -> Iterator[tuple[str, list[str]]]:
    """A server on the loopback and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def is_alive(page: Page) -> None:
    """Another question is typed, sent and answered."""
    page.click("#new")
    page.ask("and now")
    assert page.texts("article.user .body") == ["and now"]


def test_nothing_runs_and_nothing_loads(driver: Chrome) -> None:
    with trap() as (address, asked):
        text = "\n\n".join(ATTACKS).replace("TRAP", address)
        pieces = [text[i : i + 41] for i in range(0, len(text), 41)]
        answers = iter([pieces, ["fine"]])
        with LiveServer(FakeEngine(lambda _: next(answers))) as server:
            page = Page(driver, server.url).open()
            page.js(SEEN)
            before = page.js("return document.scripts.length")
            page.ask(text[:200].replace("\n", " "))
            page.until(lambda: page.all(".katex"), "the formulas")
            page.press("Raw text", "article")
            assert page.js("return document.querySelector('.raw').textContent") == text.replace("\r", "\n")
            page.press("Formatted", "article")
            page.until(lambda: page.all(".katex"), "the formulas")
            assert page.js("return [...seen]") == []
            html = "return [...document.querySelectorAll('article *')].filter(n => !n.closest('.katex'))"
            tags = set(page.js(f"{html}.map(n => n.tagName)"))
            assert [tag for tag in tags if not TAGS.fullmatch(tag)] == []
            names = set(page.js(f"return [...new Set({html[7:]}.flatMap(n => n.getAttributeNames()))]"))
            assert names <= {
                "class",
                "dir",
                "href",
                "rel",
                "start",
                "tabindex",
                "target",
                "title",
                "type",
                "aria-label",
            }
            links = page.js("return [...document.querySelectorAll('article a')].map(n => [n.href, n.target, n.rel])")
            assert all(href.startswith(address) for href, _, _ in links)
            assert {(target, rel) for _, target, rel in links} == {("_blank", "noopener noreferrer")}
            assert page.all("article .katex :is(a, img, [id], [class*=trouble], [href])") == []
            assert page.js("return document.scripts.length") == before
            loaded = page.js("return performance.getEntriesByType('resource').map(e => e.name)")
            ours = (server.url + "/page/", server.url + "/v1/")
            assert [name for name in loaded if not name.startswith(ours)] == []
            assert "broken" not in driver.title.replace("='broken'", "")
            is_alive(page)
            assert page.complaints() == []
        assert asked == []


MUCH = {
    "brackets": "[" * 1_000_000,
    "brackets-below-the-limit": "[" * 150_000,
    "brackets-in-one-paragraph": "[" * 9_900,
    "nested-links": "[a](" * 2_400,
    "images": "![[]()" * 1_600,
    "stars": "*a **a " * 1_400,
    "backticks": "".join("e" + "`" * i for i in range(130)),
    "quotes": "> " * 20_000 + "deep",
    "lists": "- " * 20_000 + "deep",
    "indented-lists": "".join("  " * i + "- a\n" for i in range(200)),
    "formulas": "$a$" * 3_000,
    "half-formulas": "$" * 9_900,
    "braces": "$" + "{" * 1_900 + "$",
    "table": "|" * 50_000 + "\n" + "|-" * 50_000 + "\n" + "|\n" * 1_000,
    "code": "```js\n" + "/*[`${" * 30_000,
    "tags": "<" * 190_000,
    "entities": "&#" * 90_000,
    "addresses": "http://" * 1_400,
    "short-lines": "a\n\n" * 20_000,
}
PLAIN = {"brackets", "brackets-below-the-limit", "quotes", "lists", "short-lines"}


@pytest.fixture(scope="module")
def page(driver: Chrome) -> Iterator[Page]:
    """A page whose server answers with what the question names; at the end nothing may have gone wrong."""
    scripts = {name: [text[: len(text) // 2], text[len(text) // 2 :]] for name, text in MUCH.items()}
    with LiveServer(FakeEngine(lambda request: scripts.get(request.messages[-1].content, ["fine"]))) as server:
        page = Page(driver, server.url).open()
        page.js(SEEN)
        yield page
        assert page.js("return [...seen]") == []
        assert page.complaints() == []
        driver.get("about:blank")


@pytest.mark.parametrize("name", MUCH)
def test_the_page_lives_on_whatever_an_answer_has_much_of(page: Page, name: str) -> None:
    page.click("#new")
    page.ask(name)
    shown = page.js("return document.querySelector('article.assistant .body').textContent")
    assert len(shown) > 10
    if name in PLAIN:  # nothing is lost where nothing is formatted
        assert MUCH[name].strip() in shown
    is_alive(page)
