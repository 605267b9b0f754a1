"""Where an installation is, and whether it may be there: the folder, the list in it, the name on the PATH."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ....errors import StorageError, UsageError
from ....system.safe_open import safe_open

MARK = "GLM Edge installation 1"  # the first line of a list
LIST = "installed.txt"

_LIST_BYTES = 1 << 22
_LOCK = ".glm-edge.lock"


@dataclass(frozen=True)
class Places:
    """Where everything goes.

    Args:
        programs: the folder on the PATH.
        everyone: whether it is for all users of the machine.
    """

    bundle: Path
    prefix: Path
    programs: Path
    everyone: bool

    @property
    def list(self) -> Path:
        return self.prefix / LIST

    @property
    def lock(self) -> Path:
        return self.prefix / _LOCK

    @property
    def env(self) -> Path:
        return self.prefix / "env"

    @property
    def models(self) -> Path:
        return self.prefix / "models"

    @property
    def start(self) -> Path:
        return self.prefix / "glm-edge"

    @property
    def launcher(self) -> Path:
        return self.programs / "glm-edge"

    def listed(self) -> dict[str, set[str]]:
        """What the list has by its kinds, "launcher" and "model"; empty where there is no list of ours."""
        try:
            with safe_open(self.list, follow=False) as file:
                lines = file.read(_LIST_BYTES).decode("utf-8", "surrogateescape").splitlines()
        except FileNotFoundError:
            return {}
        found: dict[str, set[str]] = {"launcher": set(), "model": set()} if lines[:1] == [MARK] else {}
        for kind, _, value in (line.partition(" ") for line in lines[1:]):
            if kind in found:
                found[kind].add(value)
        return found


def places_of(bundle: Path, prefix: str) -> Places:
    """The places for who runs this. Args: prefix: empty where none was named. Raises UsageError."""
    root, home = os.geteuid() == 0, os.environ.get("HOME", "")
    if not root and not home:
        raise UsageError("HOME is not set, and GLM Edge is installed below it")
    named = Path(os.path.abspath(prefix or ("/opt/glm-edge" if root else f"{home}/.local/lib/glm-edge")))
    place = named.parent.resolve() / named.name  # as uninstall.sh sees it
    if "\n" in str(place):
        raise UsageError("PREFIX must be one line")
    return Places(bundle, place, Path("/usr/local/bin" if root else f"{home}/.local/bin"), everyone=root)


def check_places(places: Places) -> None:
    """Raise StorageError unless the folder and the name on the PATH are free, or of an earlier installation."""
    prefix = places.prefix
    for path in (prefix, places.models):
        if path.is_symlink():
            raise StorageError(f"{path}: is a link; name the folder it leads to, or put one there")
    if prefix.exists() and not prefix.is_dir():
        raise StorageError(f"{prefix}: is not a folder; name another PREFIX")
    harmless = (places.lock, places.models)  # left of a removed installation: models of one's own
    if prefix.is_dir() and not places.listed() and any(path not in harmless for path in prefix.iterdir()):
        raise StorageError(f"{prefix}: has files that install.sh did not put there; name another PREFIX")
    path = places.launcher
    ours = path.is_symlink() and Path(os.readlink(path)).with_name(LIST).is_file()
    if os.path.lexists(path) and not ours:
        raise StorageError(f"{path}: is there and not from install.sh; move it away")
