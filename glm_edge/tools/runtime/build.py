"""The portable runtime: llama-cpp-python with a library for every kind of processor of an architecture, as one wheel.

ggml's processor backend is built a dozen times, from plain x86-64 or ARMv8.0 to AMX or SME. At start llama.cpp loads
the best one that the machine can run (`glm_edge/llama/kernels.py`). With -ffp-contract=off ARM quantizes to the bytes
that x86 does. OpenMP is left out, because a bare machine may lack its library; `patch.py` lets threads wait as it does.
The RPC backend is one more library, Vulkan's another where it is asked for (`vulkan.py`). Zig builds it for its own or
the other architecture, in a temporary folder, whose name is kept out of the libraries: two builds give the same bytes.
It takes about 10 minutes on two x86 cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ...errors import InvalidFileError, StorageError, UsageError
from ...model.ggml import RUNTIME_MARKER
from ...system.safe_open import safe_open
from . import compiler
from .compiler import MACHINES
from .patch import NAME as PATCH
from .patch import patch
from .vulkan import vulkan_options

LOCK = Path(__file__).with_name("requirements.lock")

Progress = Callable[[int, int], None]  # steps done, steps in all

_EPOCH = "1767225600"  # 2026-01-01: the same input gives the same archive
_NO_CONTRACTION = "-ffp-contract=off"  # of multiply and add: libggml-base, which quantizes, is C
# What the projects force, and options cannot change. "Common" is a library for llama.cpp's own programs, an eighth of
# the work. Without the other, the variants keep room for the temporary folder's name, whose length varies.
_FORCED = "set(LLAMA_BUILD_COMMON OFF)\nset(CMAKE_BUILD_WITH_INSTALL_RPATH ON)\n"
_OPTIONS = (
    "GGML_NATIVE=OFF",
    "GGML_BACKEND_DL=ON",
    "GGML_CPU_ALL_VARIANTS=ON",
    "GGML_RPC=ON",
    "GGML_OPENMP=OFF",
    "LLAVA_BUILD=OFF",
    "LLAMA_BUILD_TOOLS=OFF",
    "CMAKE_INSTALL_BINDIR=llama_cpp/lib",
    "CMAKE_INSTALL_LIBDIR=llama_cpp/lib",
)


def build(machine: str, out: Path, progress: Progress | None = None, *, vulkan: bool = False) -> Path:
    """Build the wheel for Linux on `machine` into the folder `out`; returns its path.

    Raises UsageError for an unknown machine and what Vulkan lacks, StorageError when a download or the compiler fails.

    Args:
        vulkan: with llama.cpp's Vulkan backend.
    """
    if machine not in MACHINES:
        raise UsageError(f"{machine}: no such architecture; choose one of {', '.join(MACHINES)}")
    if sys.platform != "linux":
        raise UsageError("the portable runtime is built on Linux; on other systems use pip install llama-cpp-python")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="glm-edge-runtime-") as temporary:
        folder = Path(temporary)
        (folder / "headers").mkdir()
        options = vulkan_options(machine, folder / "headers") if vulkan else []
        tools = _install_tools(folder)
        wheel = _compile(machine, folder, tools, options, progress)
        return _finish(wheel, description(machine) | ({"vulkan": "yes"} if vulkan else {}), folder, tools, out)


def description(machine: str) -> dict[str, str]:
    """What `build` makes today, as it writes it into the wheel."""
    zig, source = locked("ziglang"), locked("llama-cpp-python")
    return {"compiler": f"zig {zig}", "llama_cpp_python": source, "patch": PATCH, "machine": machine}


def described(wheel: Path) -> dict[str, str]:
    """The description in a wheel; empty where `build` did not make it. Raises InvalidFileError for what is no wheel."""
    try:
        with safe_open(wheel) as file, zipfile.ZipFile(file) as archive:
            found = json.loads(archive.read(f"llama_cpp/lib/{RUNTIME_MARKER}"))
    except KeyError:
        return {}
    except (zipfile.BadZipFile, ValueError):
        raise InvalidFileError(f"{wheel}: is no wheel, or a damaged one") from None
    return dict(found)


def locked(name: str) -> str:
    """The version of a package in the lock file."""
    match = re.search(rf"^{re.escape(name)}==([\w.]+)", LOCK.read_text("utf-8"), re.MULTILINE)
    if match is None:
        raise UsageError(f"{LOCK}: has no {name}")
    return match[1]


def _install_tools(folder: Path) -> Path:
    """A virtual environment with the compiler and CMake; returns its Python. The source is fetched beside it."""
    _run([sys.executable, "-m", "venv", str(folder / "tools")], "make a virtual environment")
    python = folder / "tools" / "bin" / "python"
    lines = LOCK.read_text("utf-8").replace("\\\n", " ").splitlines()
    source = [line for line in lines if line.startswith("llama-cpp-python")]
    for name, wanted in (("tools.txt", [line for line in lines if line not in source]), ("source.txt", source)):
        (folder / name).write_text("\n".join(wanted), "utf-8")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    checked = ["--require-hashes", "--no-deps", "-r"]
    _run([*pip, "install", "--only-binary=:all:", *checked, str(folder / "tools.txt")], "fetch the compiler")
    fetch = ["download", "--no-binary=:all:", "--no-build-isolation", "-d", str(folder)]
    _run([*pip, *fetch, *checked, str(folder / "source.txt")], "fetch llama.cpp")
    return python


def _compile(machine: str, folder: Path, python: Path, more: list[str], progress: Progress | None) -> Path:
    """Run pip's build of the source, with `more` options for CMake; returns the wheel as it comes."""
    where = "import ziglang, os; print(os.path.join(os.path.dirname(ziglang.__file__), 'zig'))"
    zig = Path(_run([str(python), "-c", where], "find the compiler").strip())
    (folder / "bin").mkdir()
    programs = compiler.write_programs(folder / "bin", zig, machine)
    (folder / "forced.cmake").write_text(_FORCED, "utf-8")
    options = [*_OPTIONS, *more, f"CMAKE_AR={programs['AR']}", f"CMAKE_RANLIB={programs['RANLIB']}"]
    options += ["CMAKE_SYSTEM_NAME=Linux", f"CMAKE_SYSTEM_PROCESSOR={machine}"]  # cross, also to the same machine
    options += [f"CMAKE_PROJECT_INCLUDE={folder / 'forced.cmake'}"]
    nameless = f"-ffile-prefix-map={folder}=."  # __FILE__ in messages
    environment = {
        **os.environ,
        **{name: str(path) for name, path in programs.items()},
        "CFLAGS": f"{_NO_CONTRACTION} {nameless}",
        "CXXFLAGS": nameless,
        "CMAKE_ARGS": " ".join(f"-D{option}" for option in options),
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "SKBUILD_BUILD_DIR": str(folder / "build"),
        "SOURCE_DATE_EPOCH": _EPOCH,
        "ZIG_GLOBAL_CACHE_DIR": str(folder / "zig-cache"),
    }
    archive = next(folder.glob("llama_cpp_python-*.tar.gz"))
    _run([str(python), "-m", "tarfile", "-e", str(archive), str(folder)], "unpack llama.cpp")
    source = archive.with_suffix("").with_suffix("")
    patch(source)
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--no-cache-dir", "--verbose", "-w", str(folder / "wheels"), str(source)]
    with _followed(command, environment) as lines:
        for line in lines:
            if progress is not None and (step := re.match(r"\s*\[(\d+)/(\d+)\]", line)):
                progress(int(step[1]), int(step[2]))
    return next((folder / "wheels").glob("*.whl"))


def _finish(wheel: Path, facts: dict[str, str], folder: Path, python: Path, out: Path) -> Path:
    """Leave out what nobody loads, say what it is, and name the systems that the wheel runs on."""
    run = [str(python), "-m", "wheel"]
    _run([*run, "unpack", "-d", str(folder / "unpacked"), str(wheel)], "unpack the wheel")
    root = next((folder / "unpacked").iterdir())
    libraries = root / "llama_cpp" / "lib"
    for developers in (root / "include", libraries / "cmake", libraries / "pkgconfig"):
        shutil.rmtree(developers)
    for path in libraries.iterdir():
        # a wheel has no links: each library is there once by its name and once more by its SONAME, where others need it
        if re.search(r"\.so\.\d+\.\d", path.name):
            path.unlink()
    (libraries / RUNTIME_MARKER).write_text(json.dumps(facts) + "\n", "utf-8")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": _EPOCH}
    (folder / "packed").mkdir()
    _run([*run, "pack", "-d", str(folder / "packed"), str(root)], "pack the wheel", environment)
    packed = next((folder / "packed").glob("*.whl"))
    system = f"manylinux_{compiler.GLIBC.replace('.', '_')}_{facts['machine']}"
    _run([*run, "tags", "--remove", "--platform-tag", system, str(packed)], "tag the wheel", environment)
    done = next((folder / "packed").glob("*.whl"))
    return Path(shutil.move(str(done), out / done.name))


def _run(command: list[str], what: str, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints. Raises StorageError with its last line where it fails."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise StorageError(f"cannot {what}: {lines[-1]}")
    return done.stdout


@contextlib.contextmanager
def _followed(command: list[str], environment: Mapping[str, str]) -> Iterator[Iterator[str]]:
    """The lines of a command as it prints them. Raises StorageError with the compiler's first error where it fails."""
    errors: list[str] = []
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:

        def lines() -> Iterator[str]:
            for line in process.stdout or ():
                if not errors and re.search(r"\berror:|CMake Error", line):  # not -Werror=...
                    errors.append(line.strip())
                yield line

        try:
            yield lines()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # the compilers too: they write into a folder that goes
            raise
    if process.returncode:
        raise StorageError(f"llama.cpp was not built: {(errors or ['no error was printed'])[0]}")
