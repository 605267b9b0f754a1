"""One way to open a file: every other call that opens one by name is in the list below, with its reason."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import glm_edge
from glm_edge import convert

PACKAGE, CONVERT = Path(glm_edge.__file__).parent, Path(convert.__path__[0])
OPENING = {"open", "fdopen", "FileIO", "read_text", "read_bytes", "write_text", "write_bytes", "memmap", "fromfile"}
OURS = "our own file, which no user names and no other may write"
KERNEL = "a file of the kernel"
HANDLE = "a handle that is open already"

# (file, what is called): (how often, why it is no safe_open)
ALLOWED = {
    ("system/safe_open.py", "os.open"): (1, "this is it"),
    ("system/safe_open.py", "io.FileIO"): (1, HANDLE),
    ("system/atomic_write.py", "open"): (1, HANDLE),
    ("system/atomic_write.py", "os.open"): (1, "a folder, to sync it"),
    ("system/file_lock.py", "open"): (1, "by the opener below"),
    ("system/file_lock.py", "os.open"): (1, "follows no link; for reading and writing, so a pipe does not block"),
    ("system/address_space.py", "open"): (1, KERNEL),
    ("system/device.py", "path.read_text"): (1, KERNEL),
    ("tools/doctor/host.py", "(self.root / name).read_text"): (1, KERNEL),
    ("tools/doctor/probe.py", "open"): (1, KERNEL),
    ("tools/bundle/bundle.py", "path.read_text"): (1, "a file of the package"),
    ("tools/bundle/bundle.py", "own.write_bytes"): (1, OURS),
    ("tools/bundle/wheels.py", "LOCK.read_text"): (1, "a file of the package"),
    ("tools/bundle/wheels.py", "wanted.write_text"): (1, OURS),
    ("tools/bundle/install/environment.py", "(folder / 'pyvenv.cfg').write_text"): (1, OURS),
    ("tools/bundle/own_wheel.py", "installed.read_text"): (1, "a file of this installation"),
    ("tools/compensation_folder.py", "open"): (1, OURS),
    ("tools/compensation_folder.py", "os.open"): (1, "follows no link"),
    ("tools/runtime/build.py", "LOCK.read_text"): (2, "a file of the package"),
    ("tools/runtime/build.py", "(folder / name).write_text"): (1, OURS),
    ("tools/runtime/build.py", "(libraries / RUNTIME_MARKER).write_text"): (1, OURS),
    ("tools/runtime/build.py", "(folder / 'forced.cmake').write_text"): (1, OURS),
    ("tools/runtime/patch.py", "PANELS.read_bytes"): (1, "a file of the package"),
    ("tools/runtime/patch.py", "path.read_text"): (1, OURS),
    ("tools/runtime/patch.py", "(source / name).write_text"): (1, OURS),
    ("tools/runtime/compiler.py", "path.write_text"): (1, OURS),
    ("llama/huge_pages.py", "path.read_text"): (1, KERNEL),
    ("llama/kernels.py", "path.read_bytes"): (1, "a library of the runtime, which this process runs"),
    ("tools/bundle/write.py", "tarfile.open"): (1, HANDLE),
    ("worker/child.py", "os.fdopen"): (2, HANDLE),
    ("worker/child.py", "os.open"): (1, "the null device"),
    ("cli/run.py", "os.open"): (1, "the null device"),
    ("cli/serve.py", "webbrowser.open"): (1, "a page's address"),
    ("cli/demo.py", "path.read_bytes"): (1, "a file of the package"),
    ("api/page/page.py", "path.read_bytes"): (1, "a file of the package"),
    ("engine/prefix_cache/store.py", "opened.open"): (1, "Folder.open"),
    ("convert/compare.py", "open"): (1, OURS),
    ("convert/pull/hub.py", "open"): (1, OURS),
    ("convert/pull/pull.py", "open"): (1, OURS),
    ("convert/pull/pull.py", "self._plan.format.open"): (1, "a format's, by safe_open"),
    ("convert/source/checkpoint.py", "format.open"): (2, "a format's, by safe_open"),
    ("convert/write.py", "os.open"): (2, "for writing; follows no link"),
}


def opening_calls() -> Counter[tuple[str, str]]:
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    # installed, convert lies inside of the package; in an editable installation it lies beside it
    files |= {f"convert/{path.relative_to(CONVERT).as_posix()}": path for path in CONVERT.rglob("*.py")}
    files = {name: path for name, path in files.items() if not name.startswith("demo/")}  # the demo's own programs
    found: Counter[tuple[str, str]] = Counter()
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called.rpartition(".")[2] in OPENING:
                    found[name, called] += 1
    return found


def test_every_file_is_opened_safely_or_is_in_the_list() -> None:
    assert opening_calls() == {call: times for call, (times, _) in ALLOWED.items()}
