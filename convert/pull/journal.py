"""What a pull has done so far: a small JSON file beside the result under construction, replaced whole.

It is written after the data it tells of has been sent to the disk, and before the shard that the data came from goes,
so that whatever it says is true after a kill or a power cut. It names repository, revision, commit, recipe and the hash
of the result's head, so that no other pull is continued with it. Nothing here fetches or converts.
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
    """A tensor that is in the result."""

    sha256: str  # of its data
    squares: Squares


@dataclass
class Journal:
    """`save` after every change."""

    repo: str
    revision: str  # as asked for
    commit: str
    recipe: str
    files: dict[str, HubFile]  # of that commit
    layout: str = ""  # SHA-256 of the head with zeros for hashes; "" until it is known
    hashes: dict[str, str] = field(default_factory=dict)  # SHA-256 of the source files that have been read
    tensors: dict[str, Done] = field(default_factory=dict)  # by their names in the result

    def save(self, folder: Path) -> None:
        """Put the journal in its place, for good. Raises OSError."""
        atomic_write(folder / NAME, [json.dumps(dataclasses.asdict(self)).encode()])


def load(folder: Path) -> Journal | None:
    """The journal in a folder; None where there is none or it cannot be read. Raises StorageError."""
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
