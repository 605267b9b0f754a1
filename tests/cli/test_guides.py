"""The commands in the guides: every one is a command of ours with options that it has, the same in both languages."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from glm_edge.cli import glm_edge as root
from support.guides import GUIDES, commands

# tests/api/proxy runs those that change nothing of the machine
OTHERS = {"ssh", "apt-get", "cp", "curl", "haproxy", "promtool", "systemctl"}
ENGLISH = sorted(path for path in GUIDES.glob("*.md") if not path.name.endswith(".zh-CN.md"))


@pytest.mark.parametrize("path", ENGLISH, ids=lambda path: path.stem)
def test_both_languages_have_the_same_commands(path: Path) -> None:
    assert commands(path) == commands(path.with_name(f"{path.stem}.zh-CN.md"))


@pytest.mark.parametrize("path", ENGLISH, ids=lambda path: path.stem)
def test_every_command_of_ours_is_one_with_options_that_it_has(path: Path) -> None:
    for line in commands(path):
        words = shlex.split(line.removeprefix("sudo "))
        if words[:1] == ["glm-edge"]:
            parse(root, words[1:])
        else:
            assert words[0] in OTHERS or words[:2] in (["sh", "install.sh"], ["sh", "uninstall.sh"]), line


def parse(command: click.Command, words: list[str]) -> None:
    """As the command line does, without running it. Raises click's error where a word is wrong."""
    if isinstance(command, click.Group):
        inner = command.get_command(click.Context(command), words[0])
        assert inner is not None, words[0]
        parse(inner, words[1:])
    else:
        command.make_context(command.name, words).close()
