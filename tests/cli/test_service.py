"""`glm-edge service` with a folder as the root: what it says, writes and refuses. No systemd runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from glm_edge.cli.service import command
from glm_edge.errors import InvalidFileError, StorageError, UsageError
from glm_edge.tools.service.unit import Service, unit_text

pytestmark = pytest.mark.skipif(os.name != "posix", reason="systemd is Linux's")

UNIT = "etc/systemd/system/glm-edge.service"
LINK = "etc/systemd/system/multi-user.target.wants/glm-edge.service"


def call(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--root", str(root)])


def analyze(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """What systemd-analyze says; skips the test where there is none."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze: apt-get install systemd")
    done = subprocess.run(
        ["systemd-analyze", *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_unit_is_written_linked_and_removed(tmp_path: Path) -> None:
    done = call(tmp_path, "install", "--yes")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        f"1. write {tmp_path / UNIT}",
        f"2. link {tmp_path / LINK}, so that it starts with the system",
        "installed; it serves the demo model at http://127.0.0.1:8000 once the model is loaded",
    ]
    assert (tmp_path / LINK).resolve() == tmp_path / UNIT
    assert (tmp_path / UNIT).stat().st_mode & 0o777 == 0o644
    before = (tmp_path / UNIT).read_bytes()
    assert call(tmp_path, "install", "--yes").exit_code == 0  # again: an upgrade
    assert (tmp_path / UNIT).read_bytes() == before
    assert call(tmp_path, "status").output == f"{tmp_path / UNIT}: installed, no systemd runs here\n"
    done = call(tmp_path, "remove", "--yes")
    assert done.output.splitlines()[-1] == "removed; models, caches and settings are where they were"
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink() or path.is_file()]
    assert call(tmp_path, "remove", "--yes").output == "no service is installed\n"
    assert call(tmp_path, "status").exit_code == 1


def test_nothing_is_done_on_a_pipe_without_yes(tmp_path: Path) -> None:
    done = call(tmp_path, "install")
    assert isinstance(done.exception, UsageError)
    assert done.output.startswith("1. write ")
    assert not any(tmp_path.iterdir())


def test_a_unit_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    unit = tmp_path / UNIT
    unit.parent.mkdir(parents=True)
    unit.write_text("[Unit]\n")
    for verb in ("install", "remove"):
        assert isinstance(call(tmp_path, verb, "--yes").exception, StorageError)
    assert unit.read_text() == "[Unit]\n"


def test_beyond_loopback_it_wants_keys(tmp_path: Path) -> None:
    done = call(tmp_path, "install", "--yes", "--host", "0.0.0.0")
    assert isinstance(done.exception, UsageError)
    assert "--api-key-file" in str(done.exception)
    assert call(tmp_path, "install", "--yes", "--host", "0.0.0.0", "--api-key-file", "/etc/keys").exit_code == 0
    text = (tmp_path / UNIT).read_text()
    assert "LoadCredential=api-keys:/etc/keys\n" in text
    assert "--api-key-file ${CREDENTIALS_DIRECTORY}/api-keys" in text
    assert "IPAddressDeny" not in text


def test_a_model_is_looked_for_below_the_root_and_named_as_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srv").mkdir()
    for name in ("m.gguf", "/srv/m.gguf"):
        done = call(tmp_path, "install", "--yes", "--model", name)
        assert isinstance(done.exception, StorageError)
        assert "m.gguf: there is no such file; with --root, --model names" in str(done.exception)
    assert isinstance(call(tmp_path, "install", "--yes", "--model", "/srv").exception, InvalidFileError)
    (tmp_path / "srv/m.gguf").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("/srv/m.gguf", "srv/m.gguf", "../" + tmp_path.name + "/srv/m.gguf"):
        assert call(tmp_path, "install", "--yes", "--model", name).exit_code == 0
        assert "--model /srv/m.gguf" in (tmp_path / UNIT).read_text()


@pytest.mark.parametrize("folder", ["tmp", "var/tmp"])
def test_a_model_that_the_service_would_not_see_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "m.gguf").touch()
    done = call(tmp_path, "install", "--yes", "--model", f"/{folder}/m.gguf")
    assert isinstance(done.exception, UsageError)
    assert f"/{folder}/m.gguf: the service has a /tmp of its own" in str(done.exception)
    assert not (tmp_path / UNIT).exists()


def test_it_starts_when_the_model_is_there_and_drains_when_it_stops() -> None:
    text = unit_text(Service(Path("/opt/glm/bin/python"), Path("/srv/my 50%.gguf"), "127.0.0.1", 8000))
    assert "ConditionPathExists=/srv/my 50%%.gguf\n" in text
    assert '--model "/srv/my 50%%.gguf"' in text
    options = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert options["Type"] == "notify"
    assert options["Restart"] == "on-failure"
    assert options["KillMode"] == "mixed"
    grace = text.partition("--grace ")[2].split()[0]
    assert int(options["TimeoutStopSec"]) > int(grace)


@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, *, user: bool) -> None:
    program = Path(sys.executable)
    unit = tmp_path / "glm-edge.service"
    unit.write_text(unit_text(Service(program, tmp_path / "a b.gguf", "127.0.0.1", 8000, tmp_path / "keys", user=user)))
    said = analyze(*(["--user"] if user else []), "verify", str(unit), environment={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert "glm-edge" not in said


@pytest.mark.parametrize("loopback", [True, False])
def test_the_system_form_is_exposed_to_little(tmp_path: Path, *, loopback: bool) -> None:
    unit = tmp_path / "glm-edge.service"
    service = Service(Path(sys.executable), Path("/srv/m.gguf"), "0.0.0.0", 8000, Path("/etc/k"), loopback)
    unit.write_text(unit_text(service))
    said = analyze("security", "--offline=yes", str(unit))
    assert float(said.rpartition("Overall exposure level for")[2].split()[1]) <= 2.0


@pytest.mark.skipif(sys.platform != "linux", reason="a switch of Linux 6.3 and later")
def test_the_runtime_makes_no_memory_executable() -> None:
    """As under MemoryDenyWriteExecute=, by prctl(2) instead of systemd's filter."""
    code = (
        "import ctypes, sys\n"
        "if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): sys.exit(77)\n"  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
        "from glm_edge.cli import glm_edge, run\n"
        "sys.exit(run(glm_edge, ['chat', '--prompt', '你好'], prog_name='glm-edge'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode == 77:
        pytest.skip("this kernel cannot forbid it")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
