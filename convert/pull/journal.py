"""The journal of a pull: a small JSON file that says what is done, beside the result under construction.

It is replaced whole, after the data that it names is on the disk and before the shard of that data is removed: so it is
true after a kill or a power cut. It names repository, revision, commit, recipe and the hash of the result's head, so
that no other pull continues with it. Nothing here fetches or converts.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from glm_edge.errors import InvalidFileError
from glm_edge.system.atomic_write import atomic_write

from ..compare import Squares
from ..source.files import read_json
from .hub import HubFile, is_allowed

NAME = "journal.json"


@dataclass(frozen=True)
class Done:
    """A tensor whose data is in the result."""

    sha256: str  # of its data
    squares: Squares


@dataclass
class Journal:
    """What a pull has done so far. Call `save` after every change."""

    repo: str
    revision: str  # as asked for
    commit: str
    recipe: str
    files: dict[str, HubFile]  # of that commit
    layout: str = ""  # SHA-256 of the head without hashes; "" until it is known
    hashes: dict[str, str] = field(default_factory=dict)  # SHA-256 of the source files that have been read
    tensors: dict[str, Done] = field(default_factory=dict)  # by their names in the result

    def save(self, folder: Path) -> None:
        """Replace the journal in the folder, durably. Raises OSError."""
        atomic_write(folder / NAME, [json.dumps(dataclasses.asdict(self)).encode()])


def load(folder: Path) -> Journal | None:
    """The journal in a folder; None if there is none or it is torn. Raises StorageError."""
    if not (folder / NAME).is_file():
        return None
    try:
        content = read_json(folder / NAME)
        content["files"] = {name: HubFile(**entry) for name, entry in content["files"].items() if is_allowed(name)}
        content["tensors"] = {
            name: Done(str(entry["sha256"]), (float(entry["squares"][0]), float(entry["squares"][1])))
            for name, entry in content["tensors"].items()
        }
        return Journal(**content)
    except (InvalidFileError, TypeError, ValueError, KeyError, AttributeError, IndexError):
        return None
