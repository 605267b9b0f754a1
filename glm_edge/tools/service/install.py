"""Puts the unit on the machine and takes it off again: a list of steps that can be told before they are taken.

With another root than / files are written there and no service manager is called: for images, and for tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import StorageError, UsageError
from ...system.atomic_write import atomic_write
from ...system.safe_open import safe_open
from .unit import MARK, NAME, UNIT, Service, unit_text

_ROOT = Path("/")
_HIDDEN = (Path("/tmp"), Path("/var/tmp"))
_UNIT_BYTES = 1 << 16  # more than a unit of ours has
_READABLE, _PASSABLE = 0o004, 0o001  # for everybody


@dataclass(frozen=True)
class UnitLocation:
    """Where the unit is: among the machine's units or one user's, below a root.

    Args:
        home: the user's home; only a user unit is there.
    """

    root: Path
    user: bool
    home: Path

    @property
    def folder(self) -> Path:
        """The folder of unit files."""
        if self.user:
            below = self.home / ".config/systemd/user"
            return below if self.root == _ROOT else self.root / below.relative_to(below.anchor)
        return self.root / "etc/systemd/system"

    @property
    def unit(self) -> Path:
        return self.folder / UNIT

    @property
    def link(self) -> Path:
        """The link by which systemd starts the unit by itself."""
        return self.folder / ("default.target.wants" if self.user else "multi-user.target.wants") / UNIT

    @property
    def live(self) -> bool:
        """Whether a service manager is to be told."""
        return self.root == _ROOT

    def name_of(self, path: Path) -> Path:
        """A file's absolute name where the unit runs: a path below the root without the root."""
        path = Path(os.path.abspath(path))
        return _ROOT / path.relative_to(self.root) if path.is_relative_to(self.root) else path

    def file_of(self, name: Path) -> Path:
        """Where the file with an absolute name is now: below the root."""
        return self.root / name.relative_to(name.anchor)


@dataclass(frozen=True)
class Step:
    """One thing that will be done: what is said of it, and doing it."""

    text: str
    do: Callable[[], None]


def install_steps(location: UnitLocation, service: Service) -> list[Step]:
    """The steps of an installation, or of an upgrade.

    Raises UsageError where the service could not run or the machine has no systemd, StorageError for a unit that is
    not ours.
    """
    _check_manager(location)
    _check_ours(location)
    if not service.user:
        _check_visible(location, service)
        if location.live:
            _check_readable(service)
    steps = [Step(f"write {location.unit}", lambda: _write(location.unit, unit_text(service)))]
    if not location.live:
        return [*steps, Step(f"link {location.link}, so that it starts with the system", lambda: _link(location))]
    lasts = "until you log out (loginctl enable-linger keeps it)" if location.user else "now and at every start"
    return [
        *steps,
        Step("tell systemd of it (daemon-reload)", lambda: _systemctl(location, "daemon-reload")),
        Step(f"start it, {lasts}", lambda: _systemctl(location, "enable", UNIT)),
        # a start that waits for the model to be loaded would keep the terminal for minutes
        Step("restart it, if it ran with another model", lambda: _systemctl(location, "--no-block", "restart", UNIT)),
    ]


def remove_steps(location: UnitLocation) -> list[Step]:
    """The steps of a removal; none where nothing is installed. Models, caches and settings stay.

    Raises as `install_steps`.
    """
    if not location.unit.exists():
        return []
    _check_ours(location)
    take = Step(f"remove {location.unit}", lambda: _remove(location))
    if not location.live:
        return [take]
    _check_manager(location)
    return [
        Step("stop it, when its running answers have ended", lambda: _systemctl(location, "disable", "--now", UNIT)),
        take,
        Step("tell systemd of it (daemon-reload)", lambda: _systemctl(location, "daemon-reload")),
    ]


def state_of(location: UnitLocation) -> str:
    """What systemd says of the service in a word (active, activating, failed, inactive); empty where nobody runs it."""
    if not location.live or not _manager():
        return ""
    done = subprocess.run(_command(location, "is-active", UNIT), capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _check_manager(location: UnitLocation) -> None:
    if not location.live:
        return
    if not _manager():
        raise UsageError("no systemd runs here; start glm-edge serve otherwise, or write the files with --root DIR")
    if not location.user and os.geteuid() != 0:
        raise UsageError("a service of the machine needs root: repeat with sudo, or use --user for your own")


def _manager() -> bool:
    """As sd_booted(3) tells."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def _check_ours(location: UnitLocation) -> None:
    try:
        with safe_open(location.unit) as file:
            text = file.read(_UNIT_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return
    if not text.startswith(MARK):
        raise StorageError(f"{location.unit}: was not written by {NAME}; rename it first")


def _check_visible(location: UnitLocation, service: Service) -> None:
    """PrivateTmp=, which DynamicUser= brings in any case, hides the files of temporary folders."""
    for file in (service.model, service.program if location.live else None):
        if file is not None and any(file.is_relative_to(folder) for folder in _HIDDEN):
            raise UsageError(
                f"{file}: the service has a /tmp of its own and does not see this; put the file elsewhere, in /opt or"
                f" /var/lib/{NAME}"
            )


def _check_readable(service: Service) -> None:
    """The service's user owns nothing: it reads what everybody may read."""
    for file in filter(None, (service.model, service.program, service.program.resolve())):
        for path in (file, *file.parents):
            wanted = _READABLE if path == file else _PASSABLE
            if path.exists() and not path.stat().st_mode & wanted:
                raise UsageError(
                    f"{path}: the service runs as a user of its own, which may not read this; put the file elsewhere,"
                    f" in /opt or /var/lib/{NAME}, or let everybody read it: chmod o+{'r' if path == file else 'x'}"
                )
    key_file = service.key_file
    if key_file is not None and key_file.exists() and key_file.stat().st_mode & 0o077:
        raise UsageError(f"{key_file}: other users can read the keys; chmod 600 it")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, [text.encode()])
    path.chmod(0o644)


def _link(location: UnitLocation) -> None:
    location.link.parent.mkdir(parents=True, exist_ok=True)
    location.link.unlink(missing_ok=True)
    location.link.symlink_to(Path("..") / UNIT)


def _remove(location: UnitLocation) -> None:
    location.link.unlink(missing_ok=True)
    location.unit.unlink()


def _systemctl(location: UnitLocation, *arguments: str) -> None:
    done = subprocess.run(_command(location, *arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise StorageError(f"systemctl {' '.join(arguments)}: {said[-1]}")


def _command(location: UnitLocation, *arguments: str) -> list[str]:
    return ["systemctl", *(["--user"] if location.user else []), *arguments]
