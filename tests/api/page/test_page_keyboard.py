"""The chat page in a real browser by keyboard alone, and as axe-core sees it.

axe-core is npm's: GLM_EDGE_NODE_MODULES names the folder that it is in. Without it, its test skips.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.keys import Keys

from glm_edge.types import Request
from support.engines.fake_engine import FakeEngine
from support.server.browser import Page
from support.server.live_server import LiveServer

ANSWER = r"""# Title
- a list with `code`, [a link](https://example.org/) and $x^2$

| a | b |
|---|--:|
| 1 | 2 |

> quoted

```python
def f(x=None):  # a remark
    return "text", 1.5
```
"""
WHERE = """const node = document.activeElement;
return node.id || node.ariaLabel || node.className.split(" ")[0] || node.textContent;"""


def script(request: Request) -> list[str]:
    return [ANSWER if request.messages[-1].content == "much" else "fine"]


@pytest.fixture
def page(driver: Chrome) -> Iterator[Page]:
    with LiveServer(FakeEngine(script, n_ctx=400)) as server:
        page = Page(driver, server.url)
        yield page
        assert page.complaints() == []
        driver.get("about:blank")


def press(page: Page, *keys: str) -> None:
    ActionChains(page.driver).send_keys(*keys).perform()


def walk(page: Page, name: str, *keys: str, back: bool = False) -> None:
    """Go to what has this id, label or text by Tab, or by Shift+Tab, and press these keys there."""
    passed = []
    while page.js(WHERE) != name:
        passed.append(page.js(WHERE))
        assert len(passed) < 60, passed
        press(page, *([Keys.SHIFT, Keys.TAB, Keys.NULL] if back else [Keys.TAB]))
    press(page, *keys)


def answered(page: Page, bodies: list[str]) -> None:
    page.until(lambda: page.texts("article .body") == bodies and page.shown("#send"), str(bodies))


def test_everything_is_done_by_keyboard_alone(page: Page) -> None:
    page.open()
    walk(page, "input", "one", Keys.ENTER)
    answered(page, ["one", "fine"])
    walk(page, "edit", Keys.ENTER, back=True)
    press(page, " more", Keys.ENTER)
    answered(page, ["one more", "fine"])
    page.js("document.activeElement.blur()")
    walk(page, "Previous version", Keys.ENTER)
    answered(page, ["one", "fine"])
    walk(page, "raw-toggle", Keys.ENTER)
    assert page.texts("article .raw") == ["fine"]
    walk(page, "Try again", Keys.ENTER)
    page.until(lambda: page.texts(".branch") == ["1/2", "2/2"], "another answer")

    walk(page, "rename", Keys.ENTER, back=True)
    press(page, "Named", Keys.ENTER)
    assert page.find("#title").text == "Named"
    assert page.js(WHERE) == "rename"
    press(page, Keys.TAB, Keys.ENTER)
    assert page.shown("#export-json")
    press(page, Keys.ESCAPE)
    assert not page.shown("#export-json")
    walk(page, "settings-open", Keys.ENTER, back=True)
    walk(page, "temperature", "0", Keys.ENTER)  # what Tab comes to is selected
    assert page.stored("localStorage")["glm-edge.settings"]["temperature"] == 0
    assert page.js(WHERE) == "settings-open"
    walk(page, "new", Keys.ENTER, back=True)
    press(page, "much", Keys.ENTER)
    page.until(lambda: page.shown("#send") and page.all(".code"), "the answer")
    walk(page, "search", "named", back=True)
    page.until(lambda: page.texts("#list .chat") == ["Named"], "the list")
    walk(page, "chat", Keys.ENTER)
    answered(page, ["one", "fine"])


def begun(page: Page) -> None:
    page.ask("x" * 200)
    page.ask("y" * 200)
    page.ask("much")
    page.press("Try again", "article.assistant:last-of-type")
    page.until(lambda: len(page.all(".katex")) == 1 and page.texts(".branch") == ["2/2"], "the answer")
    page.click("#settings-open")
    page.find("#system").send_keys("Be brief.")
    page.press("Save", "#settings")
    page.ask("z" * 400)
    assert page.shown(".trouble")


def in_settings(page: Page) -> None:
    page.click("#settings-open")
    page.click(".more summary")


def in_the_menu(page: Page) -> None:
    page.ask("hi")
    page.viewport(390, 844)
    page.click("#menu")
    page.until(lambda: page.shown("#search"), "the menu")


def renaming(page: Page) -> None:
    page.ask("hi")
    page.click("#rename")


STATES = {
    "begun-light": (begun, "light"),
    "begun-dark": (begun, "dark"),
    "settings": (in_settings, "dark"),
    "menu": (in_the_menu, "light"),
    "renaming": (renaming, "light"),
}


@pytest.mark.parametrize(("state", "scheme"), STATES.values(), ids=STATES)
def test_axe_finds_nothing_serious(page: Page, state: Callable[[Page], None], scheme: str) -> None:
    axe = Path(os.environ.get("GLM_EDGE_NODE_MODULES") or "-", "axe-core", "axe.min.js")
    if not axe.is_file():
        pytest.skip("GLM_EDGE_NODE_MODULES (a folder with npm's axe-core) is not there")
    page.colours(scheme)
    page.open()
    state(page)
    page.js(axe.read_text("utf-8"))
    run = "axe.run({resultTypes: ['violations']}).then(r => arguments[0](r.violations), e => arguments[0](String(e)))"
    found = page.driver.execute_async_script(run)
    assert isinstance(found, list), found
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in serious] == []
