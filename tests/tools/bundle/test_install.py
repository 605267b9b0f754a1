"""install.sh and uninstall.sh of a real bundle, as a user who has nothing but Python, and no network."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.machines.alone import as_root, as_user, environment, run_alone
from support.server.live_server import post
from support.server.server_process import GREEDY, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bundles are for Linux")

PREFIX = ".local/lib/glm-edge"
LAUNCHER = ".local/bin/glm-edge"
ENTRY = ".config/glm-edge/default-model"


@pytest.fixture(scope="module")
def home(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of somebody who has installed the bundle; a test leaves it as it was."""
    homes = tmp_path_factory.mktemp("homes")
    (homes / "disk").mkdir()
    (homes / "home").symlink_to("disk")  # as where homes are on another disk
    folder = homes / "home" / "user of spaces"
    done = run_alone(["sh", made / "install.sh"], folder)
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stdout)
    return folder


def files_below(folder: Path) -> list[str]:
    """Names of everything that is no folder."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def environments(home: Path) -> list[Path]:
    return list((home / PREFIX).glob("env.*"))


def test_it_says_what_it_did_and_ends_with_the_command_that_chats(home: Path) -> None:
    said = (home / "said").read_text().splitlines()
    model = next((home / PREFIX).resolve().glob("models/*.gguf"))
    assert f"the default model: {model}" in said
    assert any(line.startswith("runtime ") for line in said)  # doctor
    assert said[-1] == f"chat with it: '{home / LAUNCHER}' chat"


@pytest.mark.case("B11")
def test_a_chat_answers_with_the_default_model_and_without_a_network(home: Path) -> None:
    done = run_alone([home / LAUNCHER, "chat", "--prompt", "你好"], home)
    assert done.returncode == 0, done.stderr
    assert "GLM Edge" in done.stdout
    model = next((home / PREFIX).resolve().glob("models/*.gguf"))
    assert done.stderr.splitlines()[0] == f"the default model: {model}"


def test_the_server_answers_too(home: Path) -> None:
    start = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    words = (str(home / LAUNCHER), "serve", "--port", "0", "--no-cache")
    folders = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
    with run("-c", start, *words, **folders) as server:
        server.said("serving glm-edge-demo")
        assert server.ask(post(GREEDY))[0] == 200


def test_a_bundle_made_there_has_the_same_wheel_of_us(home: Path, made: Path) -> None:
    code = "import sys; from glm_edge.tools.bundle.own_wheel import own_wheel; sys.stdout.buffer.write(own_wheel()[1])"
    (wheel,) = (made / "wheels").glob("glm_edge-*.whl")
    done = subprocess.run([home / PREFIX / "env/bin/python3", "-I", "-c", code], capture_output=True, check=True)
    assert done.stdout == wheel.read_bytes()


@pytest.mark.case("B8")
def test_a_removal_leaves_nothing_of_ours_and_all_of_the_users(home: Path) -> None:
    shutil.copytree(home, home.with_name("kept"), symlinks=True, copy_function=os.link)
    own = [f"{PREFIX}/models/mine.gguf", ".local/share/glm-edge/conversations/one.json", "said"]
    ours = [f"{folder}/glm-edge/profile.json" for folder in (".config", ".local/share")]  # written by commands
    ours.append(".config/glm-edge/models")
    for name in [*own, *ours]:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("mine")
    done = run_alone(["sh", home / PREFIX / "uninstall.sh"], home)
    assert done.returncode == 0, done.stderr
    assert files_below(home) == sorted(own)
    shutil.rmtree(home)
    home.with_name("kept").rename(home)


def test_commands_of_the_readme_are_those_that_are_tested_here(made: Path) -> None:
    text = (made / "README.md").read_text("utf-8")
    found = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    tested = ["sh install.sh", "glm-edge chat", "glm-edge serve", "glm-edge doctor", "sh uninstall.sh"]
    assert found == tested
    chinese = (made / "README.zh-CN.md").read_text("utf-8")
    assert "".join(re.findall(r"```sh\n(.*?)```", chinese, re.DOTALL)).splitlines() == tested


def test_a_folder_of_the_user_cannot_take_its_place(home: Path, tmp_path: Path) -> None:
    (tmp_path / "glm_edge").mkdir()
    (tmp_path / "glm_edge" / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    done = subprocess.run(
        [*as_user(), home / LAUNCHER, "--version"],
        cwd=tmp_path,
        env=environment(home, PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("glm-edge, version "), done.stderr


@pytest.mark.case("B7")
def test_an_upgrade_that_fails_leaves_the_old_version_running(
    home: Path, altered: Callable[[str, bytes], Path], made: Path
) -> None:
    wheel = next((made / "wheels").glob("waitress-*.whl"))
    before, running = files_below(home), environments(home)
    done = run_alone(["sh", altered(f"wheels/{wheel.name}", b"no wheel") / "install.sh"], home)
    assert done.returncode == 6
    assert done.stderr.startswith("error: the packages cannot be installed: ")
    assert len(done.stderr.splitlines()) == 1
    assert files_below(home) == before
    assert environments(home) == running
    assert run_alone([home / LAUNCHER, "--version"], home).returncode == 0


@pytest.mark.case("B8")
def test_an_upgrade_makes_a_new_environment_and_keeps_the_users_choice(home: Path, made: Path) -> None:
    own = home / PREFIX / "models" / "mine.gguf"
    own.write_text("mine")
    chosen = (home / ENTRY).read_text()
    (home / ENTRY).write_text(f"{own}\n")
    (before,) = environments(home)
    done = run_alone(["sh", made / "install.sh"], home, PATH=f"{home}/.local/bin:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "chat with it: glm-edge chat"
    assert f"the default model: {own}" in done.stdout
    assert own.read_text() == "mine"
    (after,) = environments(home)
    assert before != after
    (home / ENTRY).write_text(chosen)
    assert run_alone([home / LAUNCHER, "chat", "--prompt", "你好"], home).returncode == 0


def test_root_installs_for_everyone_and_removes_it(made: Path, tmp_path: Path) -> None:
    """In a mount namespace, so that /etc, /opt and /usr/local/bin are the test's own."""
    home = tmp_path / "home"
    script = (
        "set -e; mkdir etc opt bin; cp -a /etc/. etc/ 2>/dev/null || true\n"
        "mount --bind etc /etc; mount --bind opt /opt; mount --bind bin /usr/local/bin\n"
        'sh "$1/install.sh"; HOME=$2 glm-edge chat --prompt 你好; cat /etc/glm-edge/default-model\n'
        "sh /opt/glm-edge/uninstall.sh\n"
    )
    done = run_alone(["sh", "-c", script, "sh", made, tmp_path / "another"], home, before=as_root())
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    model = next(path.name for path in (made / "models").iterdir())
    assert "chat with it: glm-edge chat" in said
    assert f"the default model: /opt/glm-edge/models/{model}" in done.stderr
    assert said[-2:] == [f"/opt/glm-edge/models/{model}", "GLM Edge is removed: /opt/glm-edge"]
    assert files_below(home / "opt") + files_below(home / "bin") == []
    assert not (home / "etc" / "glm-edge").exists()


@pytest.mark.case("B5")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_told_end_leaves_nothing(made: Path, tmp_path: Path, number: signal.Signals) -> None:
    with started(made, tmp_path / "home") as running:
        running.send_signal(number)
        said = running.communicate(timeout=60)[1]
    assert running.returncode == 128 + number
    assert said == f"error: {'interrupted' if number == signal.SIGINT else 'terminated'}\n"
    assert files_below(tmp_path / "home") == []
    assert not (tmp_path / "home" / ".local").exists()


@pytest.mark.case("B6", "B8")
def test_a_removal_takes_also_what_a_kill_left_and_nothing_of_the_users(made: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with started(made, home) as running:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(60)
    own = [f"{PREFIX}/models/mine.gguf", f"{PREFIX}/notes.txt", ".local/share/glm-edge/conversations/one.json"]
    ours = [".cache/glm-edge/prefixes/key", ".config/glm-edge/profile.json", f"{PREFIX}/models/x.gguf.12345678.tmp"]
    for name in own + ours:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x")
    with (home / PREFIX / "installed.txt").open("a") as file:
        file.write("model x.gguf\nmodel ../notes.txt\nlauncher /etc/passwd\n")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (home / PREFIX / "env.linkedto").symlink_to(outside)
    own.append(f"{PREFIX}/env.linkedto")
    (home / ENTRY).write_text(f"{home / PREFIX}/models/x.gguf\n")
    unit = home / ".config/systemd/user/glm-edge.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(f"ExecStart={home / PREFIX}/env/bin/python3 -m glm_edge serve\n")
    done = run_alone(["sh", made / "uninstall.sh"], home)  # which nobody can stop here
    assert done.stderr.startswith(f"error: {unit}: the service runs from {home / PREFIX}; first: ")
    assert (home / PREFIX / "installed.txt").exists()
    unit.unlink()
    done = run_alone(["sh", made / "uninstall.sh"], home)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"GLM Edge is removed; files of your own stay in {home / PREFIX}\n"
    assert files_below(home) == sorted(own)
    assert (outside / "kept").exists()
    done = run_alone(["sh", made / "uninstall.sh"], home)
    assert done.stderr == f"error: {home / PREFIX}: was not made by install.sh; nothing was removed\n"


def started(made: Path, home: Path) -> subprocess.Popen[str]:
    """An installation that has begun to fill its folder."""
    home.mkdir()
    running = subprocess.Popen(
        [*as_user(), "sh", made / "install.sh"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    while "installing the packages" not in (line := running.stdout.readline()):
        assert line
    return running
