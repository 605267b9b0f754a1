"""The commands of the guide for several machines, as they are written, that change nothing of this machine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from support.guides import GUIDES, commands
from support.server.office import HOSTS, KEY, office

LINES = commands(GUIDES / "several-machines.md")


def run(program: str, folder: Path = GUIDES) -> str:
    """What the guide's command of this program writes."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    (line,) = [line for line in LINES if shlex.split(line)[0] == program]
    line = line.replace("/etc/haproxy/", "")  # the folder that it was copied to
    environment = {**os.environ, "GLM_EDGE_KEY": KEY, "GLM_EDGE_DIGEST": "fa" * 32}
    done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_server_tells_the_digest_of_its_model() -> None:
    with office("haproxy", "-f", str(GUIDES / "haproxy.cfg"), servers=1):
        assert json.loads(run("curl"))["data"][0]["digest"] == "fa" * 32


def test_the_balancers_configuration_is_valid() -> None:
    run("haproxy")


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    config = (GUIDES / "prometheus.yml").read_text("utf-8")
    assert all(f"- {host}:8000" in config for host in HOSTS)
    place = config.replace("/etc/prometheus/glm-edge-key", str(tmp_path / "key"))
    (tmp_path / "prometheus.yml").write_text(place, "utf-8")
    run("promtool", tmp_path)
