"""What a bundle has, and making it: packages, models with their prefixes, scripts, a unit file, a README.

    OUT/README.md, README.zh-CN.md      for whoever stands before the other machine
        install.sh, uninstall.sh        start there; `install/` in our wheel does the work
        glm-edge.service                for systemd, of an installation in /opt/glm-edge
        requirements-3.11.txt           what is installed with which Python, by hash
        wheels/, models/
        bundle.json                     what it is, for the installer
        SHA256SUMS                      of all of these

Wheels are fetched into the user's cache folder, and the runtime that is built stays there too: what is there is not
fetched or built again.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ... import __version__
from ...engine.prefix_cache.store_file import bundled_folder
from ...errors import StorageError, UsageError
from ...model.adapter import check_fits, read_adapter, shape_of
from ...model.checks import check_model
from ...model.gguf import read_gguf
from ...system.hashes import sha256_of
from ...system.private import make_folder
from ..runtime.build import build, described, description
from ..runtime.compiler import GLIBC
from ..service.unit import Service, unit_text
from .own_wheel import epoch, own_wheel
from .wheels import PIP, LockedWheel, Target, fetch, glibc_of, locked, named, needed, pinned
from .write import ABOUT, Entry, after, check_out, check_space, entry_of, write

FILES = Path(__file__).with_name("files")
LEAST_GLIBC = tuple(map(int, GLIBC.split(".")))
RUNTIME = "llama-cpp-python"
PREFIX = Path("/opt/glm-edge")  # where install.sh of root puts it

Progress = Callable[[int, int], None]  # done, in all
Steps = Callable[[str, str], AbstractContextManager[Progress]]  # (what is done, unit) -> its progress

_COMPILED = 1.4  # times the bytes of packages, with what Python compiles


@dataclass(frozen=True)
class Task:
    """What is asked for.

    Args:
        out: a folder, or a file whose name ends in .tar.
        models: GGUF files; the first one becomes the default.
        adapters: files of convert-adapter, for one of the models.
        machine: "x86_64" or "aarch64".
        pythons: "3.11" and others.
        runtime: a wheel of llama-cpp-python; None takes the one in the cache folder, or builds it.
        cache: the folder for wheels, ours.
        ik: whether ik_llama.cpp comes too, for x86-64.
    """

    out: Path
    models: tuple[Path, ...]
    machine: str
    pythons: tuple[str, ...]
    runtime: Path | None
    cache: Path
    adapters: tuple[Path, ...] = ()
    ik: bool = False

    @property
    def targets(self) -> list[Target]:
        return [Target(self.machine, python) for python in self.pythons]

    def locked(self, target: Target) -> list[LockedWheel]:
        """The wheels of the lock that are wanted for a target."""
        return locked(target, ik=self.ik)


@dataclass(frozen=True)
class Made:
    """What was made: how many files of how many bytes, the glibc that they need, and what its maker should know."""

    files: int
    size: int
    glibc: str
    warnings: tuple[str, ...]


def bundle(task: Task, steps: Steps) -> Made:
    """Make the bundle of a task. Raises UsageError, StorageError and what a wrong model file raises."""
    if task.ik and task.machine != "x86_64":
        raise UsageError(f"ik_llama.cpp is for x86-64, not for {task.machine}; leave out --ik")
    check_out(task.out)
    time, (name, content), models = epoch(), own_wheel(), _models(task.models) | _adapters(task)
    if task.runtime is not None:
        _check_runtime(task.runtime, task)
    wheels = {wheel for target in task.targets for wheel in task.locked(target)}
    check_space(task.out, sum(wheel.size for wheel in wheels) + sum(path.stat().st_size for path in models.values()))
    make_folder(task.cache)
    for target in task.targets:
        with steps(f"fetching for Python {target.python}", "B") as progress:
            fetch(task.locked(target), target, task.cache, progress)
    runtime = task.runtime or _runtime(task, steps)
    with tempfile.TemporaryDirectory(prefix="glm-edge-bundle-") as temporary:
        own = Path(temporary) / name
        own.write_bytes(content)
        entries, about = _packages(task, own, runtime)
        with steps("hashing", "B") as progress:
            entries += _hashed(models, progress)
        about["models"] = [path.name for path in task.models]
        entries.append(entry_of(ABOUT, f"{json.dumps(about, indent=1)}\n".encode()))
        entries += _texts(task)
        with steps("writing", "B") as progress:
            top = f"glm-edge-{__version__}-linux-{task.machine}"
            write(task.out, entries, top=top, time=time, progress=progress)
    warning = f"{runtime.name} was built for one kind of processor; glm-edge runtime builds it for all"
    warnings = () if described(runtime) else (warning,)
    return Made(len(entries) + 1, sum(entry.size for entry in entries), str(about["glibc"]), warnings)


def _models(paths: Sequence[Path]) -> dict[str, Path]:
    """Names in the bundle and the files: models, each with the prefixes that were computed for it."""
    found: dict[str, Path] = {}
    for path in paths:
        if not re.fullmatch(r"[^\x00-\x1f\\/]+\.gguf", path.name):
            raise UsageError(f"{path}: a model in a bundle needs a name that ends in .gguf")
        if f"models/{path.name}" in found:
            raise UsageError(f"{path}: another model has this name already")
        check_model(read_gguf(path))
        found[f"models/{path.name}"] = path
        folder = bundled_folder(path)
        for prefix in sorted(folder.glob("*.prefix")):
            if prefix.is_file() and not prefix.is_symlink():  # the engine ignores everything else too
                found[f"models/{folder.name}/{prefix.name}"] = prefix
    return found


def _adapters(task: Task) -> dict[str, Path]:
    """Names in the bundle and files of the adapters. Raises what a wrong one raises, or one that fits no model."""
    found: dict[str, Path] = {}
    for path in task.adapters:
        name = f"models/adapters/{path.name}"
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}\.gguf", path.name, re.ASCII) or name in found:
            raise UsageError(f"{path}: an adapter in a bundle needs a plain name of its own that ends in .gguf")
        adapter = read_adapter(path)
        if all(shape_of(read_gguf(model)) != adapter.shape for model in task.models):
            check_fits(adapter, read_gguf(task.models[0]))
        found[name] = path
    return found


def _hashed(files: dict[str, Path], progress: Progress) -> list[Entry]:
    total, done, entries = sum(path.stat().st_size for path in files.values()), 0, []
    for name, path in files.items():
        entries.append(entry_of(name, path, sha256_of(path, after(done, total, progress))))
        done += entries[-1].size
    return entries


def _check_runtime(wheel: Path, task: Task) -> None:
    """Raise UsageError for a wheel that is not the runtime's or not the target's."""
    if not wheel.is_file():
        raise StorageError(f"{wheel}: there is no such file")
    if named(wheel.name)[0] != RUNTIME:
        raise UsageError(f"{wheel}: is no wheel of {RUNTIME}; glm-edge runtime builds it")
    for target in task.targets:
        if not target.fits(wheel.name):
            raise UsageError(f"{wheel}: is not for Python {target.python} on linux-{task.machine}")


def _runtime(task: Task, steps: Steps) -> Path:
    """The wheel that an earlier build left in the cache folder, or a new one."""
    for path in sorted(task.cache.glob("llama_cpp_python-*.whl")):
        if described(path) == description(task.machine):
            return path
    with steps("building llama.cpp", " steps") as progress:
        return build(task.machine, task.cache, progress)


def _packages(task: Task, own: Path, runtime: Path) -> tuple[list[Entry], dict[str, object]]:
    """The wheels with what is installed of them, and what bundle.json says of that."""
    hashes = {path: sha256_of(path) for path in (own, runtime)}
    entries: dict[str, Entry] = {}
    unpacked: dict[str, int] = {}
    for target in task.targets:
        known = {task.cache / wheel.name: wheel.sha256 for wheel in task.locked(target)} | hashes
        pip = next(path for path in known if named(path.name)[0] == PIP)
        root = "glm-edge[ik]" if task.ik else "glm-edge"
        chosen = needed([path for path in known if path != pip], root, target)
        for path in (*chosen, pip):
            entries[path.name] = entry_of(f"wheels/{path.name}", path, known[path])
        text = "".join(pinned(path.name, known[path]) for path in chosen)
        entries[target.python] = entry_of(f"requirements-{target.python}.txt", text.encode())
        unpacked[target.python] = int(_COMPILED * sum(map(_unpacked, chosen)))
    wheels = [entry.content for entry in entries.values() if isinstance(entry.content, Path)]
    about: dict[str, object] = {
        "what": "GLM Edge bundle",
        "format": 1,
        "version": __version__,
        "machine": task.machine,
        "glibc": _glibc(wheels),
        "installed_bytes": unpacked,
        "pip": pip.name,
    }
    return list(entries.values()), about


def _unpacked(wheel: Path) -> int:
    with zipfile.ZipFile(wheel) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _glibc(wheels: Sequence[Path]) -> str:
    """The glibc that wheels need, by their names and by what their libraries ask for."""
    found = {LEAST_GLIBC}
    for wheel in wheels:
        found |= {glibc_of(wheel.name), *(version for version, _ in glibc_versions(wheel))}
    return ".".join(map(str, max(found)))


def glibc_versions(wheel: Path) -> list[tuple[tuple[int, int], str]]:
    """The newest version of glibc's symbols that each library of a wheel names, and the library.

    A library has these names in a table of texts. What else looks like one could only make the demand too high.
    """
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if ".so" in entry.filename and (data := archive.read(entry)).startswith(b"\x7fELF"):
                minors = [int(minor) for minor in re.findall(rb"\0GLIBC_2\.(\d+)(?:\.\d+)*(?=\0)", data)]
                found.append(((2, max(minors, default=0)), entry.filename))
    return found


def _texts(task: Task) -> list[Entry]:
    """Scripts, README, unit file."""
    model = task.models[0].name
    words = {
        "version": __version__,
        "target": f"linux-{task.machine}",
        "pythons": ", ".join(task.pythons),
        "model": model,
    }
    entries = []
    for path in sorted(FILES.iterdir()):
        text = path.read_text("utf-8")
        if path.suffix == ".md":
            for name, value in words.items():
                text = text.replace(f"@{name}@", value)
        entries.append(entry_of(path.name, text.encode(), mode=0o755 if path.suffix == ".sh" else 0o644))
    service = Service(PREFIX / "env/bin/python3", PREFIX / "models" / model, "127.0.0.1", 8000)
    return [*entries, entry_of("glm-edge.service", unit_text(service).encode())]
