"""What a server leaves on the machine is its user's alone: folders, files, and no memory of it in a core file."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path

import psutil
import pytest

from glm_edge.system.profile import Profile, save_profile
from support.server.live_server import PATIENCE, eventually, post
from support.server.server_process import GREEDY, run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="file modes and core files are POSIX's")

LONG = {**GREEDY, "messages": [{"role": "user", "content": "你好，请再说一遍。" * 40}]}  # enough to be cached


def modes(folder: Path) -> dict[str, str]:
    """Mode of everything below a folder, which it is not itself part of."""
    return {str(path.relative_to(folder)): oct(stat.S_IMODE(path.lstat().st_mode)) for path in folder.rglob("*")}


@pytest.mark.case("N15")
@pytest.mark.skipif(sys.platform != "linux", reason="reads limits of other processes")
def test_with_an_open_umask_and_core_files_allowed_nothing_is_left_to_others(tmp_path: Path) -> None:
    import resource

    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("core files cannot be allowed here")
    (tmp_path / "here").mkdir()
    places = {f"XDG_{name}_HOME": str(tmp_path / name.lower()) for name in ("CACHE", "DATA", "CONFIG")}
    start = (
        "import os, resource, runpy, sys; os.umask(0); os.chdir(sys.argv.pop(1));"
        " resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2);"
        " runpy.run_module('glm_edge', run_name='__main__')"
    )
    with run("-c", start, str(tmp_path / "here"), "serve", "--port", "0", "--threads", "1", **places) as server:
        server.said("serving")
        assert server.ask(post(LONG))[0] == 200
        assert eventually(lambda: any((tmp_path / "cache").rglob("*.prefix")))
        for process in (psutil.Process(server.popen.pid), server.child):
            assert process.rlimit(psutil.RLIMIT_CORE)[0] in (0, 1)
        server.child.send_signal(signal.SIGSEGV)
        server.said("is started again")
        server.popen.send_signal(signal.SIGABRT)
        assert server.popen.wait(PATIENCE) == -signal.SIGABRT
    found = modes(tmp_path)
    assert list((tmp_path / "here").iterdir()) == []
    files = {name: mode for name, mode in found.items() if (tmp_path / name).is_file()}
    assert {mode for name, mode in found.items() if name not in files and name != "here"} == {"0o700"}
    assert set(files.values()) == {"0o600"}
    assert {Path(name).suffix for name in files} >= {".gguf", ".prefix"}


@pytest.mark.case("N15")
def test_with_an_open_umask_a_profile_is_its_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        save_profile(tmp_path / "config" / "glm-edge" / "profile.json", Profile(1, 1, 64, False, "llama"), {})
    finally:
        os.umask(before)
    assert modes(tmp_path) == {
        "config": "0o700",
        "config/glm-edge": "0o700",
        "config/glm-edge/profile.json": "0o600",
    }
