"""Installs a bundle.

    PREFIX/installed.txt       what uninstall.sh removes; a folder without it is not ours
           env.NAME/           a virtual environment with all packages
           env                 a link to it
           models/             the bundle's models; others may lie beside them
           glm-edge            starts it; the PATH has a link to this
           uninstall.sh

A new environment grows beside the old one and is tried before `env` is turned to it by one rename. So an upgrade that
fails leaves the old version running, and a first installation that fails leaves nothing.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ....errors import GlmEdgeError, StorageError
from ....system.atomic_write import TEMPORARY, atomic_write
from ....system.file_lock import Lock
from ....system.hashes import parts_with_hash, sha256_of
from ....system.safe_open import read_file
from .environment import VERSION, fill_environment, make_environment, try_environment
from .machine import check_machine
from .places import MARK, Places, check_places, places_of

_TEXT_BYTES = 1 << 22
_START = """\
#!/bin/sh
# Starts GLM Edge; written by its install.sh.
if [ ! -x {python} ]; then
  echo {gone} >&2
  exit 6
fi
exec {python} -I -m glm_edge "$@"
"""
# run by the new environment; says what the default model is
_SET_DEFAULT = """\
import sys
from pathlib import Path
from glm_edge.errors import GlmEdgeError
from glm_edge.system.default_model import entry_path, read_default, write_default
everyone, fresh, model, *ours = sys.argv[1] == "everyone", sys.argv[2] == "fresh", *map(Path, sys.argv[3:])
try:
    old = read_default()
    if fresh or old is None or not old.model.is_file() or old.model in ours:
        write_default(model, entry_path(everyone=everyone))
    else:
        model = old.model
except GlmEdgeError as error:
    sys.exit(str(error))
print(f"the default model: {model}")
"""


def main() -> NoReturn:
    """Entry point of install.sh: the bundle's folder and, perhaps, PREFIX are the arguments."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        _install(places_of(Path(sys.argv[1]), "".join(sys.argv[2:])))
    except GlmEdgeError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror or error}", StorageError.exit_code)
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    _fail("terminated", 128 + number)


def _install(places: Places) -> None:
    about = json.loads(read_file(places.bundle / "bundle.json", _TEXT_BYTES))
    lines = read_file(places.bundle / "SHA256SUMS", _TEXT_BYTES).decode().splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    models = {name.partition("/")[2]: digest for name, digest in sums.items() if name.startswith("models/")}
    check_machine(about)
    check_places(places)
    fresh, missing = not places.listed(), _missing(places, models)
    _check_space(places, about, missing)
    with contextlib.ExitStack() as undo:
        _make_folders(places.prefix, undo)
        lock = Lock(places.lock, places.prefix)
        undo.callback(lock.release)
        _write_list(places, models, undo)
        _remove_leavings(places, models)
        env = Path(tempfile.mkdtemp(prefix="env.", dir=places.prefix))
        undo.callback(shutil.rmtree, env, ignore_errors=True)
        env.chmod(0o755)
        _say("installing the packages ...")
        make_environment(env)
        fill_environment(env, places.bundle, about["pip"])
        try_environment(env)
        for name in missing:
            _copy(places.bundle / "models" / name, places.models / name, models[name], undo)
        _turn_to(env, places, undo)
        undo.pop_all()
    _remove_leavings(places, models)
    lock.release()
    _say(f"installed GLM Edge {about['version']} in {places.prefix}, with Python {sys.version.split()[0]}")
    _set_default(places, places.models / about["models"][0], fresh=fresh)
    if subprocess.run([places.start, "doctor"], check=False).returncode:
        _say("it is installed, and a chat will work when what doctor says is mended")
    _say(f"chat with it: {_command(places)} chat")


def _say(text: str) -> None:
    print(text, flush=True)


def _missing(places: Places, models: dict[str, str]) -> list[str]:
    """Files of the bundle's models that are not in PREFIX. A file of such a name that is not ours is refused."""
    ours, found = places.listed().get("model", set()), []
    for name, sha256 in models.items():
        path, source = places.models / name, places.bundle / "models" / name
        if path.is_symlink() or path.parent.is_symlink() or (path.exists() and name not in ours):
            raise StorageError(f"{path}: is there and not from install.sh; move it away")
        if not path.exists() or path.stat().st_size != source.stat().st_size or sha256_of(path) != sha256:
            found.append(name)
    return found


def _check_space(places: Places, about: dict[str, Any], missing: list[str]) -> None:
    sizes = [(places.bundle / "models" / name).stat().st_size for name in missing]
    need = sum(sizes) + about["installed_bytes"][VERSION]
    there = next(path for path in (places.prefix, *places.prefix.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise StorageError(f"{there}: {free / 1e9:.2f} GB are free, and GLM Edge takes {need / 1e9:.2f} GB")


def _make_folders(path: Path, undo: contextlib.ExitStack) -> None:
    """Make a folder and those above it; undone are those that this made, where they are empty."""
    for folder in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        folder.mkdir(mode=0o755)
        undo.callback(_remove_empty, folder)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _write(path: Path, content: bytes, mode: int, undo: contextlib.ExitStack) -> None:
    """Write a file; undone to what it was, or to none."""
    if path.exists():
        undo.callback(atomic_write, path, [read_file(path, _TEXT_BYTES)])
    else:
        undo.callback(path.unlink, missing_ok=True)
    atomic_write(path, [content])
    path.chmod(mode)


def _write_list(places: Places, models: dict[str, str], undo: contextlib.ExitStack) -> None:
    """Before anything of it is there: so what a kill cut short can be removed, and tried again."""
    before = places.listed()
    launchers = {str(places.launcher)} | before.get("launcher", set())
    names = set(models) | before.get("model", set())
    lines = [MARK, *(f"launcher {path}" for path in sorted(launchers)), *(f"model {name}" for name in sorted(names))]
    _write(places.list, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"), 0o644, undo)


def _remove_leavings(places: Places, models: dict[str, str]) -> None:
    """Environments that `env` does not lead to, and models that were not copied whole."""
    used = os.readlink(places.env) if places.env.is_symlink() else ""
    for path in places.prefix.glob("env.????????"):
        if path.name != used and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
    for name in models:
        for path in places.models.glob(f"{glob.escape(name)}.????????{TEMPORARY}"):
            path.unlink()


def _copy(source: Path, target: Path, sha256: str, undo: contextlib.ExitStack) -> None:
    """Copy a model's file. One of an earlier bundle that gives way does so also if the installation fails later."""
    _say(f"copying {source.name}, {source.stat().st_size / 1e9:.2f} GB ...")
    _make_folders(target.parent, undo)
    if not target.exists():
        undo.callback(target.unlink, missing_ok=True)
    atomic_write(target, parts_with_hash(source, sha256))
    target.chmod(0o644)


def _turn_to(env: Path, places: Places, undo: contextlib.ExitStack) -> None:
    """Put the scripts there, link the name on the PATH, and turn `env` to the new environment."""
    python = shlex.quote(str(places.env / "bin" / "python3"))
    gone = f"error: {places.prefix}: the Python it was installed with is gone; run install.sh of a bundle for another"
    _make_folders(places.programs, undo)
    _write(places.start, _START.format(python=python, gone=shlex.quote(gone)).encode(), 0o755, undo)
    _write(places.prefix / "uninstall.sh", read_file(places.bundle / "uninstall.sh", _TEXT_BYTES), 0o755, undo)
    if not os.path.lexists(places.launcher):
        undo.callback(places.launcher.unlink, missing_ok=True)
    _link(places.start, places.launcher)
    _link(Path(env.name), places.env)


def _link(target: Path, path: Path) -> None:
    """Make or turn a symbolic link, in one step."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    os.replace(new, path)


def _set_default(places: Places, model: Path, *, fresh: bool) -> None:
    """Make the model the default, unless the user has chosen one of his own since the first installation."""
    words = ["everyone" if places.everyone else "user", "fresh" if fresh else "upgrade", str(model)]
    ours = [str(places.models / name) for name in places.listed()["model"]]
    command = [str(places.env / "bin" / "python3"), "-I", "-c", _SET_DEFAULT, *words, *ours]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason was printed"]
        print(f"warning: {model} did not become the default model: {lines[-1]}", file=sys.stderr)
    else:
        _say(done.stdout.strip())


def _command(places: Places) -> str:
    """How a shell calls it."""
    found = shutil.which("glm-edge")
    if found is not None and Path(found) == places.launcher:
        return "glm-edge"
    if str(places.programs) not in os.environ.get("PATH", "").split(os.pathsep):
        _say(f"{places.programs} is not on the PATH: log in again, or add it")
    return shlex.quote(str(places.launcher))
