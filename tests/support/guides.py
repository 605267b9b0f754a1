"""The guides' shell blocks."""

from __future__ import annotations

import re
from pathlib import Path

from support.paths import PROJECT

GUIDES = PROJECT / "models" / "guides"


def commands(path: Path) -> list[str]:
    """The lines of a guide's shell blocks, comments left out."""
    found = re.findall(r"^```sh\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [line.partition("#")[0].strip() for block in found for line in block.splitlines()]
