"""The portable runtime's build: compiler arguments, lock file, and what is refused before anything is fetched.

The build itself takes ten minutes and the network: `glm-edge runtime`.
"""

from __future__ import annotations

import configparser
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glm_edge.errors import UsageError
from glm_edge.tools.runtime.build import LOCK, build, locked
from glm_edge.tools.runtime.compiler import target_of, write_programs, zig_arguments
from glm_edge.tools.runtime.vulkan import vulkan_options
from support.paths import PROJECT

ARM = {
    "-march=armv8-a": "-mcpu=generic+v8a",
    "-march=armv8.2-a+dotprod+fp16": "-mcpu=generic+v8_2a+dotprod+fullfp16",
    "-march=armv8.6-a+dotprod+fp16+sve+i8mm": "-mcpu=generic+v8_6a+dotprod+fullfp16+sve+i8mm",
    "-march=armv8.2-a+dotprod+nosve": "-mcpu=generic+v8_2a+dotprod-sve",
    "-march=armv9.2-a+sme": "-mcpu=generic+v9_2a+sme",
}


@pytest.mark.parametrize(("given", "wanted"), ARM.items())
def test_features_of_arm_are_named_as_zig_names_them(given: str, wanted: str) -> None:
    assert zig_arguments(["-O3", given, "-c"], "t") == ["-target", "t", "-O3", wanted, "-c"]


def test_features_of_x86_are_left_as_they_are() -> None:
    assert zig_arguments(["-mavx2", "-mamx-int8"], target_of("x86_64")) == [
        "-target", "x86_64-linux-gnu.2.28", "-mavx2", "-mamx-int8",
    ]  # fmt: skip


def test_an_unknown_feature_stops_the_build() -> None:
    with pytest.raises(ValueError, match="no translation of the feature crypto"):
        zig_arguments(["-march=armv8-a+crypto"], "t")


@pytest.mark.skipif(sys.platform != "linux", reason="the programs are for Linux")
def test_the_compilers_call_zig_with_the_target_first(tmp_path: Path) -> None:
    zig = tmp_path / "zig"
    zig.write_text('#!/bin/sh\necho "$@"\n', "utf-8")
    zig.chmod(0o755)
    (tmp_path / "bin").mkdir()
    programs = write_programs(tmp_path / "bin", zig, "aarch64")
    said = {
        name: subprocess.run([path, "-march=armv8-a", "x.c"], capture_output=True, text=True, check=True).stdout.strip()
        for name, path in programs.items()
    }
    assert said["CC"] == "cc -target aarch64-linux-gnu.2.28 -mcpu=generic+v8a x.c"
    assert said["CXX"] == "c++ -target aarch64-linux-gnu.2.28 -mcpu=generic+v8a x.c"
    assert said["AR"] == "ar -march=armv8-a x.c"


def test_every_package_of_the_lock_has_its_hash() -> None:
    lines = [line for line in LOCK.read_text("utf-8").replace("\\\n", " ").splitlines() if not line.startswith("#")]
    assert len(lines) == 11
    assert all("==" in line and "--hash=sha256:" in line for line in lines)


def test_the_locked_llama_cpp_is_one_that_the_package_allows() -> None:
    config = configparser.ConfigParser()
    config.read(PROJECT / "setup.cfg", "utf-8")
    least = config["options"]["install_requires"].split("llama-cpp-python >=")[1].split(",")[0]
    assert tuple(map(int, locked("llama-cpp-python").split("."))) >= tuple(map(int, least.split(".")))


def system(root: Path, headers: str) -> Path:
    """A root with what Vulkan's build takes from it."""
    for folder in ("include/vulkan", "include/vk_video", "include/spirv", "lib64"):
        (root / folder).mkdir(parents=True)
    (root / "include/vulkan/vulkan_core.h").write_text(headers)
    (root / "lib64/libvulkan.so").write_text("")
    return root


def test_vulkan_takes_its_headers_alone_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    root = system(tmp_path / "usr", "#define VK_EXT_layer_settings 1")
    (tmp_path / "headers").mkdir()
    options = vulkan_options(platform.machine(), tmp_path / "headers", root)
    assert options == [
        "GGML_VULKAN=ON",
        f"Vulkan_INCLUDE_DIR={tmp_path / 'headers'}",
        f"Vulkan_LIBRARY={root / 'lib64/libvulkan.so'}",
        "Vulkan_GLSLC_EXECUTABLE=/bin/glslc",
    ]
    assert sorted(path.name for path in (tmp_path / "headers").iterdir()) == ["spirv", "vk_video", "vulkan"]


@pytest.mark.parametrize(
    ("machine", "lost", "message"),
    [
        ("other", "", f"it builds for {platform.machine()} alone"),
        (
            platform.machine(),
            "lib64/libvulkan.so",
            "needs what is not here .libvulkan.so.; install them",
        ),
        (platform.machine(), "", "the headers are too old, they lack VK_EXT_layer_settings; install them"),
    ],
    ids=["another machine", "no loader", "old headers"],
)
def test_what_vulkan_lacks_is_told(
    tmp_path: Path, machine: str, lost: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    root = system(tmp_path / "usr", "#define VK_KHR_surface 1")
    if lost:
        (root / lost).unlink()
    with pytest.raises(UsageError, match=message):
        vulkan_options(machine, tmp_path, root)


def test_an_unknown_architecture_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose one of x86_64, aarch64"):
        build("riscv64", tmp_path / "out")
    assert not (tmp_path / "out").exists()
