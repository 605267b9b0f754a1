"""A virtual environment with the bundle's packages, made by hand (PEP 405) and filled by the pip of the bundle.

Neither ensurepip nor the module venv is needed, which a fresh Debian lacks in whole or in part.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from ....errors import StorageError, UnsupportedModelError

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"

_TRY = "import glm_edge.cli.load, glm_edge.api.app, glm_edge.convert.convert"  # with them all that is native code


def make_environment(folder: Path) -> None:
    """An environment of this Python, without packages, in an empty folder."""
    python = Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(python)
    (folder / "lib" / f"python{VERSION}" / "site-packages").mkdir(parents=True)
    if sys.platlibdir != "lib":  # lib64, as Fedora has it: all packages in one folder, as the module venv does it
        (folder / sys.platlibdir).symlink_to("lib")
    about = f"home = {python.parent}\ninclude-system-site-packages = false\nversion = {sys.version.split()[0]}\n"
    (folder / "pyvenv.cfg").write_text(about, "utf-8")


def fill_environment(folder: Path, bundle: Path, pip: str) -> None:
    """Install the bundle's packages for this Python, by hash and without a network.

    Args:
        pip: the name of pip's wheel.
    """
    temporary = folder / "tmp"  # the system's may be small
    temporary.mkdir()
    wheels = bundle / "wheels"
    command = [str(folder / "bin" / "python3"), "-I", f"{wheels / pip}/pip", "--isolated", "install", "--quiet"]
    command += ["--no-input", "--disable-pip-version-check", "--no-warn-script-location", "--root-user-action=ignore"]
    command += ["--no-index", "--find-links", str(wheels), "--only-binary=:all:", "--no-cache-dir", "--require-hashes"]
    command += ["-r", str(bundle / f"requirements-{VERSION}.txt")]
    surroundings = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "TMPDIR": str(temporary)}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip says nothing"]
        said = next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])
        raise StorageError(f"the packages cannot be installed: {said.removeprefix('ERROR: ')}")
    shutil.rmtree(temporary)
    for path in (folder / "bin").iterdir():  # packages' programs, which name this folder as it is called today
        if path.name != "python3":
            path.unlink()


def try_environment(folder: Path) -> None:
    """Load what will be loaded. Raises UnsupportedModelError where it cannot be."""
    command = [str(folder / "bin" / "python3"), "-I", "-c", _TRY]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise UnsupportedModelError(f"the bundle's llama.cpp does not run on this processor: it ends with {name}")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason was printed"]
        raise UnsupportedModelError(f"the bundle's packages do not run here: {lines[-1]}")
