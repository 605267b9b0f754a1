"""The page of a server, opened in the browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from selenium.webdriver import Chrome

from support.engines.fake_engine import FakeEngine
from support.server.browser import Open, Page
from support.server.live_server import LiveServer


@pytest.fixture
def open_page(driver: Chrome) -> Iterator[Open]:
    """The page of a server with this engine; at the end, nothing may stand in the browser's console."""
    with ExitStack() as stack:
        pages = []

        def open_(engine: FakeEngine) -> Page:
            pages.append(Page(driver, stack.enter_context(LiveServer(engine)).url))
            return pages[-1].open()

        yield open_
        assert [complaint for page in pages for complaint in page.complaints()] == []
        driver.get("about:blank")
