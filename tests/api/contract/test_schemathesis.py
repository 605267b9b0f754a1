"""Requests that schemathesis makes up out of /openapi.json, right and wrong ones, all its checks on.

A few of them with every run of the tests; GLM_EDGE_SCHEMATHESIS=2000 makes at least so many. What the document says
in words only, `schemathesis_hooks.py` does to the right ones.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from glm_edge.api.access.keys import Keys
from glm_edge.api.access.policy import AccessPolicy
from support.engines.fake_engine import FakeEngine
from support.paths import SUPPORT
from support.server.live_server import LiveServer

CASES = int(os.environ.get("GLM_EDGE_SCHEMATHESIS", "0"))


def test_made_up_requests_find_neither_a_server_error_nor_an_answer_that_is_not_in_the_document(
    tmp_path: Path,
) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    options = ["--checks", "all", "--continue-on-failure", "--no-color", "--seed", "1"]
    options += ["--request-timeout", "60"]  # a busy machine is no failure
    options += ["--phases", "coverage,fuzzing" if CASES else "fuzzing", "--max-examples", str(CASES // 8 or 3)]
    with LiveServer(FakeEngine(["你", "好"]), policy=AccessPolicy(Keys(["key"]))) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", *options]
        done = subprocess.run(
            [*command, "-H", "Authorization: Bearer key", "--generation-database", "none"],
            capture_output=True,
            encoding="utf-8",
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONUTF8": "1",
                "PYTHONPATH": os.pathsep.join(filter(None, [str(SUPPORT / "server"), os.environ.get("PYTHONPATH")])),
                "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
            },
            check=False,
        )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    made = re.search(r"(\d+) generated", done.stdout)
    assert made is not None
    assert int(made[1]) >= CASES
    print(done.stdout[-600:])
