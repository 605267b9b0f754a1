"""`serve --open`: the page's address is given to the user's browser, once the model is loaded."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from support.server.live_server import PATIENCE, eventually
from support.server.server_process import run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="BROWSER names the browser on POSIX only")

BROWSER = "import pathlib, sys; pathlib.Path(sys.argv[1]).with_suffix('.new').write_text(sys.argv[2]);"
BROWSER += " pathlib.Path(sys.argv[1]).with_suffix('.new').rename(sys.argv[1])"


def test_open_gives_the_address_that_is_said_to_a_browser(tiny_q4_0: Path, tmp_path: Path) -> None:
    program, opened = tmp_path / "browser.py", tmp_path / "opened"
    program.write_text(BROWSER)
    options = ["--model", str(tiny_q4_0), "--port", "0", "--no-cache", "--in-process", "--open"]
    options += ["--threads", "1", "--ctx", "256"]
    browser = f"{sys.executable} {program} {opened} %s"
    with run("-m", "glm_edge", "serve", *options, BROWSER=browser, DISPLAY="") as server:
        said = server.said(r"serving \S+ at http\S+ \(n_ctx 256\); open (http://127\.0\.0\.1:\d+) in a browser")[1]
        assert eventually(opened.exists, PATIENCE)
        server.popen.send_signal(signal.SIGINT)
        assert server.popen.wait(PATIENCE) == 0
    assert opened.read_text() == said
