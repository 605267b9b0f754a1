"""The questions of earlier sessions, in a file of the user's alone: one JSON text a line, the newest last, bounded."""

from __future__ import annotations

import json
from pathlib import Path

import platformdirs

from ...errors import GlmEdgeError
from ...system.atomic_write import atomic_write
from ...system.private import make_folder
from ...system.safe_open import read_file

MOST = 1000  # questions
MOST_BYTES = 1 << 18  # of them all; a longer question is not kept


def history_path() -> Path:
    """The file of this user."""
    return Path(platformdirs.user_data_dir("glm-edge", appauthor=False)) / "chat-history.jsonl"


def read_history(path: Path) -> list[str]:
    """The questions, the oldest first; none from a file that is not there or not ours."""
    try:
        lines = read_file(path, 4 * MOST_BYTES, follow=False).decode("utf-8", "replace").split("\n")
    except GlmEdgeError:
        return []
    found = []
    for line in lines:
        try:
            question = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(question, str):
            found.append(question)
    return found[-MOST:]


def add_to_history(path: Path, question: str) -> None:
    """Add a question; the oldest go. What cannot be kept is not: a question is not worth an error."""
    lines = [json.dumps(one, ensure_ascii=True) for one in [*read_history(path), question][-MOST:]]
    while lines and sum(map(len, lines)) + len(lines) > MOST_BYTES:
        lines.pop(0)
    try:
        make_folder(path.parent)
        atomic_write(path, ["".join(f"{line}\n" for line in lines).encode()], durable=False)
    except OSError:
        pass
