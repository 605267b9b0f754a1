"""The folder of a pull, OUT.pull: whether a pull made it, what a pull begins with, and the removal of what is its own.

A pull works only in a folder that it made, which a marker says, and removes only files that have the names of its own.
So nothing of others is lost, whatever lies at that name or was put into it. Links are not followed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from glm_edge.errors import StorageError, UsageError
from glm_edge.system.atomic_write import atomic_write

from ..quantize.recipe import Recipe
from ..source.files import read_small
from ..write import RESULT, OutputFile, amount
from .hub import Hub, is_allowed
from .journal import NAME, Journal, load

MARKER = "made-by-glm-edge-pull"
_TEXT = b"glm-edge pull made this folder, continues with what is in it, and removes it when it is done.\n"
_OWN = re.compile(rf"({re.escape(NAME)}|{MARKER})(\..*\.tmp)?|{RESULT}(\.old)?")


def claim(folder: Path) -> None:
    """Make the folder, or make sure that a pull made it. Raises UsageError if none did, OSError."""
    no_link(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is not a folder, and a pull needs one of this name; {_ADVICE}")
    folder.mkdir(exist_ok=True)
    if (folder / MARKER).is_file():
        return
    # a pull that was killed before it wrote the marker, or of a version that wrote none
    others = [path for path in folder.iterdir() if not _is_beginning(path)]
    if others and load(folder) is None:
        raise UsageError(
            f"{folder}: is there already and no pull made it; nothing in it was touched; {_ADVICE}",
        )
    atomic_write(folder / MARKER, [_TEXT])


def _is_beginning(path: Path) -> bool:
    """Whether a pull that was killed at its very start left this file: empty, or the marker before its rename."""
    if not _OWN.fullmatch(path.name) or path.is_symlink() or path.is_dir():
        return False
    size = path.stat().st_size
    is_marker = path.name.startswith(MARKER) and 0 < size <= len(_TEXT)
    return size == 0 or (is_marker and _TEXT.startswith(read_small(path, len(_TEXT))))


def no_link(path: Path) -> None:
    """Raises UsageError for a link: what is written or removed through it may be anyone's."""
    if path.is_symlink():
        raise UsageError(f"{path}: is a link, which a pull does not follow; {_ADVICE}")


_ADVICE = "move it away, or choose another output with --out"


def own_files(folder: Path) -> list[Path]:
    """The files in the folder that a pull made, by their names."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir():
            found += [p for p in sorted(path.iterdir()) if not p.is_dir() and is_allowed(p.name.removesuffix(".part"))]
        elif _OWN.fullmatch(path.name):
            found.append(path)
    return found


def remove(folder: Path) -> None:
    """Remove what a pull made, and the folder if nothing else is in it. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        for path in own_files(folder):
            path.unlink(missing_ok=True)
        for path in [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()] + [folder]:
            with contextlib.suppress(OSError):
                os.rmdir(path)


def begin(
    hub: Hub, folder: Path, file: OutputFile, revision: str, recipe: Recipe, force: bool, say: Callable[[str], None]
) -> Journal:
    """The journal of an interrupted pull, or a new one."""
    journal, other = load(folder), False
    if journal is not None and (journal.repo, journal.revision, journal.recipe) != (hub.repo, revision, recipe.name):
        if not force:
            raise UsageError(
                f"{folder}: has what is done of another pull ({journal.repo}, revision {journal.revision}, type"
                f" {journal.recipe}); finish that, discard it with --force, or choose another output with --out"
            )
        journal, other = None, True
    if journal is None:
        there = [path for path in own_files(folder) if path != file.temporary and path.name != MARKER]
        try:
            listing = hub.listing(revision)
        except BaseException:
            if not there:
                remove(folder)
            raise
        if other:
            _discard(folder, there, say)
        elif there:
            say(f"{folder}: the journal is gone or torn; continuing with the {len(there)} files that are there")
        file.resize(0)
        journal = Journal(hub.repo, revision, listing.commit, recipe.name, dict(listing.files))
        journal.save(folder)
        return journal
    say(f"{hub.repo}: continuing at {journal.commit[:12]}, {len(journal.tensors)} tensors are done")
    try:
        now = hub.listing(revision).commit
    except StorageError:  # maybe nothing is left to fetch
        now = journal.commit
    if now != journal.commit:
        say(f"{hub.repo}: {revision} is {now[:12]} meanwhile; to begin again with that, remove {folder}")
    return journal


def _discard(folder: Path, files: Sequence[Path], say: Callable[[str], None]) -> None:
    """Remove the files of another pull."""
    size = sum(path.lstat().st_size for path in files)
    names = ", ".join(str(path.relative_to(folder)) for path in files)
    say(f"{folder}: --force removes the {amount(size)} of another pull: {names}")
    for path in files:
        path.unlink()
