"""Proves a bundle in small Debian systems without a network and without a compiler. ARM processors are emulated.

A system is Debian's minimal one with Python, made by debootstrap once and kept in a folder; each run works in a copy.
`inside.py` runs in it as an ordinary user, in namespaces of its own, and compares with what this machine's glm-edge
converts to and answers. At the end a table says what was shown. Exit codes: 0 all was shown, 1 something failed, 77
this machine cannot run it. Emulation is right, not fast: its minutes say nothing of a real processor.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
CANNOT = 77  # what test programs end with where they cannot run
USER = 1000


@dataclass(frozen=True)
class System:
    """A Debian release on a processor, and the kernels that have to be chosen there."""

    suite: str
    processor: str  # dpkg's name
    cpu: str = ""  # QEMU's name
    variant: str = ""
    refused: bool = False


SYSTEMS = {
    "cortex-a72": System("bookworm", "arm64", "cortex-a72", "armv8.0_1"),  # Raspberry Pi 4: no dot product
    "cortex-a76": System("bookworm", "arm64", "cortex-a76", "armv8.2_2"),  # Raspberry Pi 5: dot product and fp16
    "debian12": System("bookworm", "amd64"),  # Python 3.11
    "debian13": System("trixie", "amd64"),  # Python 3.13
    "debian11": System("bullseye", "amd64", refused=True),  # Python 3.9
}
PACKAGES = {
    "debootstrap": "debootstrap",
    "unshare": "util-linux",
    "qemu-aarch64-static": "qemu-user-static",
    "update-binfmts": "binfmt-support",
}
BINFMT = Path("/proc/sys/fs/binfmt_misc")

# In namespaces of its own: what is mounted goes with them, and there is no network but the loopback.
_ENTER = """
set -e
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount --rbind /sys "$1/sys"
python3 -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 1))'  # SIOCSIFFLAGS, IFF_UP
root=$1; shift
chroot --userspec=1000:1000 "$root" env -i "$@" || exit $?  # no exec: another user would not be killed with unshare
"""


def stop(code: int, what: str) -> NoReturn:
    print(f"tests/arm/run: {what}", file=sys.stderr)
    sys.exit(code)


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def require(names: list[str]) -> None:
    """End with what to do where this machine cannot make or enter the systems."""
    emulated = any(SYSTEMS[name].cpu for name in names)
    if os.geteuid() != 0:
        stop(CANNOT, "needs root, for debootstrap and chroot")
    missing = [
        package
        for program, package in PACKAGES.items()
        if not shutil.which(program) and (emulated or package in {"debootstrap", "util-linux"})
    ]
    if missing:
        stop(CANNOT, f"apt-get install {' '.join(missing)}")
    if not succeeds("unshare", "--mount", "--net", "--pid", "--fork", "true"):
        stop(CANNOT, "this machine allows no namespaces (unshare)")
    if emulated and not (BINFMT / "qemu-aarch64").exists():
        if not (BINFMT / "register").exists():
            succeeds("mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT))
        succeeds("update-binfmts", "--enable", "qemu-aarch64")
        if not (BINFMT / "qemu-aarch64").exists():
            stop(CANNOT, "this machine lets no program of another processor be registered (binfmt_misc)")


def mirror() -> list[str]:
    """The address of Debian's packages that this machine's apt uses, if there is one."""
    for path in [*sorted(Path("/etc/apt").glob("sources.list.d/*")), Path("/etc/apt/sources.list")]:
        if path.suffix in {".list", ".sources"} and path.is_file():
            text = re.sub(r"#.*", "", path.read_text("utf-8", "replace"))
            if match := re.search(r"(?:^deb\s|^URIs:).*?(https?://\S*/debian)/?(?:\s|$)", text, re.MULTILINE):
                return [match[1]]
    return []


def root_of(system: System, cache: Path) -> Path:
    """The system's folder in the cache, made if it is not there."""
    root = cache / f"{system.suite}-{system.processor}"
    with open(cache / f"{root.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be making it
        if not root.exists():
            make_root(system, root, cache / f"{root.name}.part")
    return root


def make_root(system: System, root: Path, part: Path) -> None:
    """Make the system in the folder `part` and rename it when it is whole."""
    began = time.monotonic()
    log = root.with_suffix(".log")
    command = ["unshare", "--mount", "--fork", "debootstrap", "--variant=minbase", "--include=python3"]
    command += [f"--arch={system.processor}", system.suite, str(part), *mirror()]
    for again in (True, False):  # a download may come damaged
        shutil.rmtree(part, ignore_errors=True)
        with open(log, "wb") as file:
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        if code == 0:
            break
        last = (log.read_text("utf-8", "replace").splitlines() or ["?"])[-1]
        if not again:
            stop(1, f"debootstrap failed: {last} ({log})")
        print(f"{root.name}: debootstrap failed, and is tried again: {last}", flush=True)
    for path in (part / "var/cache/apt/archives").glob("*.deb"):
        path.unlink()
    with open(part / "etc/passwd", "a", encoding="utf-8") as file:
        file.write(f"user:x:{USER}:{USER}::/home/user:/bin/sh\n")
    part.rename(root)
    print(f"{root.name}: made in {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


def record(work: Path) -> Path:
    """The folder of what this machine's glm-edge converts the demo to, answers and computes."""
    found = PROJECT / ".venv" / "bin"
    path = f"{found}{os.pathsep}{os.environ['PATH']}" if found.exists() else os.environ["PATH"]
    if not shutil.which("glm-edge", path=path):
        stop(1, "no glm-edge to compare with; pip install the project first")
    folder = work / "record"
    lay_out(folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    environment |= {"HOME": str(folder), "PATH": path}
    subprocess.run([sys.executable, str(folder / "inside.py"), "record"], env=environment, check=True)
    shutil.rmtree(folder / "models")
    return folder


def lay_out(folder: Path) -> None:
    """Put what `inside.py` needs of the project into a new folder."""
    folder.mkdir()
    for name in ("inside.py", "program.py"):
        shutil.copy(HERE / name, folder)
    shutil.copy(PROJECT / "tests" / "support" / "demo_prompts.jsonl", folder / "prompts.jsonl")
    (folder / "demo").mkdir()
    for path in (PROJECT / "models" / "demo").iterdir():
        if path.suffix in {".json", ".bin", ".model"}:
            shutil.copy(path, folder / "demo")


def prove(name: str, bundle: Path, cache: Path, expected: Path | None) -> list[dict[str, object]]:
    """Run the steps in a copy of the system; returns their lines."""
    system = SYSTEMS[name]
    source = root_of(system, cache)
    print(f"\n{name}", flush=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=cache) as temporary:
        root = Path(temporary) / "root"
        subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(root)], check=True)
        lay_out(root / "proof")
        if expected is not None:
            shutil.copy(expected / "expected.json", root / "proof")
            shutil.copytree(expected / "prefixes", root / "proof" / "prefixes")
        subprocess.run(["cp", "-a", str(bundle), str(root / "proof" / "bundle")], check=True)
        home = root / "home" / "user"
        home.mkdir()
        for folder in (root / "proof", home):
            os.chown(folder, USER, USER)
        environment = ["HOME=/home/user", "PATH=/home/user/.local/bin:/usr/bin:/bin", "LANG=C.UTF-8"]
        if system.cpu:
            environment += [f"QEMU_CPU={system.cpu}", f"VARIANT={system.variant}"]
        namespaces = ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child"]
        inside = ["python3", "-B", "/proof/inside.py", "refuse" if system.refused else "prove"]
        subprocess.run([*namespaces, "sh", "-c", _ENTER, "enter", str(root), *environment, *inside], check=False)
        results = root / "proof" / "results.jsonl"
        lines = results.read_text("utf-8").splitlines() if results.exists() else []
    return [json.loads(line) for line in lines] or [{"step": "start", "ok": False, "minutes": 0}]


def table(shown: dict[str, list[dict[str, object]]]) -> Iterator[str]:
    """Steps as rows, systems as columns: "ok" or "FAILED" with the minutes it took."""
    steps = list(dict.fromkeys(str(row["step"]) for rows in shown.values() for row in rows))
    yield f"| step | {' | '.join(shown)} |"
    yield f"|---{'|---' * len(shown)}|"
    for step in steps:
        found = [next((row for row in rows if row["step"] == step), None) for rows in shown.values()]
        cells = [f"{'ok' if row['ok'] else 'FAILED'} {row['minutes']:.1f}" if row else "-" for row in found]
        yield f"| {step} | {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/arm/run", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--bundle", type=Path, help="the bundle's folder, with install.sh")
    what.add_argument("--make", action="store_true", help="only make the systems")
    what.add_argument("--check", action="store_true", help="only say whether this machine can")
    parser.add_argument("--cache", type=Path, required=True, help="where the systems are kept; a few hundred MB each")
    parser.add_argument("system", nargs="+", choices=list(SYSTEMS), help="cortex: emulated ARM; debian: x86_64")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwind: what was started and made goes
    if options.bundle and not (options.bundle / "install.sh").exists():
        stop(2, f"{options.bundle}: no install.sh in it")
    os.environ["PATH"] += f"{os.pathsep}/usr/sbin{os.pathsep}/sbin"  # where debootstrap is, whatever su left of PATH
    require(options.system)
    if options.check:
        return 0
    options.cache.mkdir(parents=True, exist_ok=True)
    if options.make:
        for name in options.system:
            root_of(SYSTEMS[name], options.cache)
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="record-", dir=options.cache) as work:
        needed = any(not SYSTEMS[name].refused for name in options.system)
        expected = record(Path(work)) if needed else None
        shown = {name: prove(name, options.bundle, options.cache, expected) for name in options.system}
    print("", *table(shown), sep="\n")
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes; steps in minutes")
    return 0 if all(row["ok"] for rows in shown.values() for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
