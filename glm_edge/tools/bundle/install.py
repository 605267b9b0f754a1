"""Installs a bundle; `install.sh` runs it out of our wheel, on a machine where nothing is installed yet.

    PREFIX/installed.txt       what uninstall.sh removes; a folder without it is not ours
           env.NAME/           a virtual environment with all packages, made by hand: a fresh Debian lacks ensurepip
           env                 a link to it
           models/             the bundle's models; those of one's own may lie beside them
           glm-edge            starts it; the PATH has a link to this
           uninstall.sh

A new environment grows beside the old one and is tried before `env` is turned to it by one rename, so an upgrade that
fails leaves the old version running, and a first installation that fails leaves nothing. Needs Python and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ...errors import GlmEdgeError, IntegrityError, StorageError, UnsupportedModelError, UsageError
from ...system.atomic_write import atomic_write
from ...system.file_lock import Lock
from ...system.safe_open import read_file, safe_open
from .machine import check_machine

LIST = "installed.txt"
MARK = "GLM Edge installation 1"

_TEXT_BYTES = 1 << 22
_CHUNK = 1 << 20
_TRY = "import glm_edge.cli.chat, glm_edge.cli.load, glm_edge.api.app"  # all that native code has to do with
_START = """\
#!/bin/sh
# Starts GLM Edge; written by its install.sh.
if [ ! -x {python} ]; then
  echo {gone} >&2
  exit 6
fi
exec {python} -I -m glm_edge "$@"
"""


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


def main() -> NoReturn:
    """Entry point of install.sh: the bundle's folder and, perhaps, PREFIX are the arguments."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        _install(_places(*sys.argv[1:]))
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


def _places(bundle: str, prefix: str = "") -> Places:
    root = os.geteuid() == 0
    home = os.environ.get("HOME", "")
    if not root and not home:
        raise UsageError("HOME is not set, and GLM Edge is installed below it")
    default = "/opt/glm-edge" if root else f"{home}/.local/lib/glm-edge"
    place = Path(os.path.abspath(prefix or default))
    if "\n" in str(place):
        raise UsageError("PREFIX must be one line")
    programs = Path("/usr/local/bin" if root else f"{home}/.local/bin")
    return Places(Path(bundle), place, programs, everyone=root)


def _install(places: Places) -> None:
    about = json.loads(read_file(places.bundle / "bundle.json", _TEXT_BYTES))
    sums = _sums(places.bundle)
    check_machine(about)
    _check_prefix(places)
    _check_launcher(places)
    models = {name.partition("/")[2]: digest for name, digest in sums.items() if name.startswith("models/")}
    missing = _missing(places, models)
    _check_room(places, about, missing)
    with contextlib.ExitStack() as undo:
        _make_folders(places.prefix, undo)
        lock = Lock(places.prefix / ".lock", places.prefix)
        undo.callback(lock.release)
        _write_list(places, models, undo)
        env = _make_environment(places, undo)
        _fill(env, places.bundle, about)
        for name in missing:
            _copy(places.bundle / "models" / name, places.models / name, models[name], undo)
        _finish(places, env, undo)
        undo.pop_all()
    _remove_older(places, env)
    lock.release()
    default = places.models / about["models"][0]
    _set_default(places, default)
    print(f"installed GLM Edge {about['version']} in {places.prefix}, with Python {sys.version.split()[0]}", flush=True)
    _examine(places)
    print(f"chat with it: {_command(places)} chat")


def _sums(bundle: Path) -> dict[str, str]:
    """SHA256SUMS: names and digests. install.sh has checked the files."""
    lines = read_file(bundle / "SHA256SUMS", _TEXT_BYTES).decode().splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _listed(places: Places) -> dict[str, set[str]]:
    """What installed.txt has, by its kind; empty where there is none."""
    try:
        with safe_open(places.list, follow=False) as file:
            lines = file.read(_TEXT_BYTES).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return {}
    if lines[:1] != [MARK]:
        return {}
    found: dict[str, set[str]] = {"": set()}
    for kind, _, value in (line.partition(" ") for line in lines[1:]):
        found.setdefault(kind, set()).add(value)
    return found


def _check_prefix(places: Places) -> None:
    """It is not there, or empty, or was made here."""
    prefix = places.prefix
    if prefix.is_symlink():
        raise StorageError(f"{prefix}: is a link; name the folder it leads to")
    if prefix.exists() and not prefix.is_dir():
        raise StorageError(f"{prefix}: is not a folder; name another PREFIX")
    if prefix.is_dir() and not _listed(places) and any(prefix.iterdir()):
        raise StorageError(f"{prefix}: has files that install.sh did not put there; name another PREFIX")
    if places.models.is_symlink():
        raise StorageError(f"{places.models}: is a link; put a folder there")


def _check_launcher(places: Places) -> None:
    """The name on the PATH is free, or a link of ours."""
    path = places.launcher
    ours = path.is_symlink() and Path(os.readlink(path)).with_name(LIST).is_file()
    if os.path.lexists(path) and not ours:
        raise StorageError(f"{path}: is there and not from install.sh; move it away")


def _missing(places: Places, models: dict[str, str]) -> list[str]:
    """Files of the bundle's models that are not in PREFIX yet. One of another's with such a name is refused."""
    ours = _listed(places).get("model", set())
    found = []
    for name in models:
        path, source = places.models / name, places.bundle / "models" / name
        if path.parent.is_symlink() or path.is_symlink():
            raise StorageError(f"{path}: has a link in it; move it away")
        if path.exists() and name not in ours:
            raise StorageError(f"{path}: is there and not from install.sh; move it away")
        if not path.exists() or path.stat().st_size != source.stat().st_size or _digest(path) != models[name]:
            found.append(name)
    return found


def _digest(path: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    with safe_open(path) as file:
        while part := file.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()


def _check_room(places: Places, about: dict[str, Any], missing: list[str]) -> None:
    need = about["installed_bytes"][f"{sys.version_info[0]}.{sys.version_info[1]}"]
    need += sum((places.bundle / "models" / name).stat().st_size for name in missing)
    there = next(path for path in (places.prefix, *places.prefix.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise StorageError(f"{there}: {free / 1e9:.2f} GB are free, and GLM Edge takes {need / 1e9:.2f} GB")


def _make_folders(path: Path, undo: contextlib.ExitStack) -> None:
    """Make a folder and those above it; undone are those that this made."""
    for folder in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        folder.mkdir(mode=0o755)
        undo.callback(_remove_empty, folder)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _write_list(places: Places, models: dict[str, str], undo: contextlib.ExitStack) -> None:
    """Before anything of it is there: what is cut short can be removed, and tried again."""
    before = _listed(places)
    names = sorted(before.get("model", set()) | set(models))
    launchers = sorted(before.get("launcher", set()) | {str(places.launcher)})
    lines = [MARK, *(f"launcher {path}" for path in launchers), *(f"model {name}" for name in names)]
    if not before:
        undo.callback(places.list.unlink, missing_ok=True)
    else:
        undo.callback(_write, places.list, read_file(places.list, _TEXT_BYTES))
    _write(places.list, "".join(f"{line}\n" for line in lines).encode())


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    atomic_write(path, [content])
    path.chmod(mode)


def _make_environment(places: Places, undo: contextlib.ExitStack) -> Path:
    """An empty virtual environment (PEP 405) of this Python; returns its folder."""
    for path in places.prefix.glob("env.*"):  # of an installation that was killed
        if not (places.env.is_symlink() and os.readlink(places.env) == path.name):
            shutil.rmtree(path, ignore_errors=True)
    env = Path(tempfile.mkdtemp(prefix="env.", dir=places.prefix))
    undo.callback(shutil.rmtree, env, ignore_errors=True)
    env.chmod(0o755)
    python = Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
    (env / "bin").mkdir()
    (env / "bin" / "python3").symlink_to(python)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (env / "lib" / f"python{version}" / "site-packages").mkdir(parents=True)
    about = f"home = {python.parent}\ninclude-system-site-packages = false\nversion = {sys.version.split()[0]}\n"
    _write(env / "pyvenv.cfg", about.encode())
    return env


def _fill(env: Path, bundle: Path, about: dict[str, Any]) -> None:
    """Install the packages with the bundle's pip, and see whether they work."""
    print("installing the packages ...", flush=True)
    temporary = env / "tmp"  # the system's may be small
    temporary.mkdir()
    python, wheels = env / "bin" / "python3", bundle / "wheels"
    command = [str(python), "-I", f"{wheels / about['pip']}/pip", "--isolated", "install", "--quiet", "--no-input"]
    command += ["--no-index", "--find-links", str(wheels), "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-warn-script-location", "--root-user-action=ignore"]
    command += ["--require-hashes", "-r"]
    command.append(str(bundle / f"requirements-{sys.version_info[0]}.{sys.version_info[1]}.txt"))
    surroundings = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "TMPDIR": str(temporary)}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip says nothing"]
        said = next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])
        raise StorageError(f"the packages cannot be installed: {said.removeprefix('ERROR: ')}")
    shutil.rmtree(temporary)
    for path in (env / "bin").iterdir():  # programs of packages, which start only by this folder's present name
        if path.name != "python3":
            path.unlink()
    done = subprocess.run([python, "-I", "-c", _TRY], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise UnsupportedModelError(f"the bundle's llama.cpp does not run on this processor: it ends with {name}")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason was printed"]
        raise UnsupportedModelError(f"the bundle's packages do not run here: {lines[-1]}")


def _copy(source: Path, target: Path, sha256: str, undo: contextlib.ExitStack) -> None:
    """Copy a model's file. One that gives way is gone also if the installation fails later: it was the bundle's."""
    size = source.stat().st_size
    print(f"copying {source.name}, {size / 1e9:.2f} GB ...", flush=True)
    _make_folders(target.parent, undo)
    if not target.exists():
        undo.callback(target.unlink, missing_ok=True)
    atomic_write(target, _checked(source, sha256))
    target.chmod(0o644)


def _checked(source: Path, sha256: str) -> Iterator[bytes]:
    import hashlib

    digest = hashlib.sha256()
    with safe_open(source) as file:
        while part := file.read(_CHUNK):
            digest.update(part)
            yield part
    if digest.hexdigest() != sha256:
        raise IntegrityError(f"{source}: was not read as it was checked; copy the bundle again")


def _finish(places: Places, env: Path, undo: contextlib.ExitStack) -> None:
    """Put the scripts there, turn `env` to the new environment and link the name on the PATH."""
    python = shlex.quote(str(places.env / "bin" / "python3"))
    gone = f"error: {places.prefix}: the Python it was installed with is gone; run install.sh of a bundle for another"
    uninstall = places.prefix / "uninstall.sh"
    for path in (places.start, uninstall, places.launcher):
        if not os.path.lexists(path):
            undo.callback(path.unlink, missing_ok=True)
    _make_folders(places.programs, undo)
    _write(places.start, _START.format(python=python, gone=shlex.quote(gone)).encode(), 0o755)
    _write(uninstall, read_file(places.bundle / "uninstall.sh", _TEXT_BYTES), 0o755)
    _link(places.start, places.launcher)
    _link(Path(env.name), places.env)


def _link(target: Path, path: Path) -> None:
    """Make or turn a symbolic link, in one step."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    os.replace(new, path)


def _remove_older(places: Places, env: Path) -> None:
    for path in places.prefix.glob("env.*"):
        if path != env:
            shutil.rmtree(path, ignore_errors=True)


def _set_default(places: Places, model: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from glm_edge.system.default_model import entry_path, write_default;"
        " write_default(Path(sys.argv[1]), entry_path(everyone=sys.argv[2] == 'True'))"
    )
    command = [str(places.env / "bin" / "python3"), "-I", "-c", code, str(model), str(places.everyone)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason was printed"]
        print(f"warning: {model} did not become the default model: {lines[-1]}", file=sys.stderr)


def _examine(places: Places) -> None:
    """What `doctor` says. The installation stays whatever it is."""
    done = subprocess.run([places.start, "doctor"], check=False)
    if done.returncode:
        print("note: it is installed; what doctor found has to be mended before a chat will work", file=sys.stderr)


def _command(places: Places) -> str:
    """How a shell calls it."""
    found = shutil.which("glm-edge")
    if found is not None and Path(found) == places.launcher:
        return "glm-edge"
    if str(places.programs) not in os.environ.get("PATH", "").split(os.pathsep):
        print(f"{places.programs} is not on the PATH: log in again, or add it")
    return shlex.quote(str(places.launcher))
