"""What the build of llama.cpp's Vulkan backend takes from this system: headers, loader, and the compiler of shaders.

KleidiAI (GGML_CPU_KLEIDIAI, kernels for ARM) has no such option. llama.cpp's CMake fetches its source from GitHub,
outside of the package index that all else here is from, so it could be neither built nor measured.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from ...errors import UsageError
from ...system.safe_open import read_file

_HEADERS = ("vulkan", "vk_video", "spirv")  # folders
_NEWEST = "VK_EXT_layer_settings"  # of what llama.cpp uses: Vulkan 1.3.268
_HEADER_BYTES = 16 << 20  # more than the header has
_INSTALL = "install them: apt-get install libvulkan-dev spirv-headers glslc g++ (Debian 13, Ubuntu 24.04 or later)"


def vulkan_options(machine: str, folder: Path, root: Path = Path("/usr")) -> list[str]:
    """Options for CMake; links to the headers are made in `folder`.

    The headers are linked because beside them, in /usr/include, is another C library than the one that is built for.
    Raises UsageError for another machine than this one, and where something is missing.
    """
    if machine != platform.machine():
        raise UsageError(f"--vulkan links to this system's library, so it builds for {platform.machine()} alone")
    folders = ("lib64", f"lib/{machine}-linux-gnu", "lib")
    loader = next((path for name in folders if (path := root / name / "libvulkan.so").exists()), None)
    programs = {name: shutil.which(name) for name in ("glslc", "g++")}
    missing = [name for name in _HEADERS if not (root / "include" / name).is_dir()]
    missing += [name for name, path in programs.items() if path is None]
    if loader is None or missing:
        what = ", ".join([*missing, *([] if loader else ["libvulkan.so"])])
        raise UsageError(f"--vulkan needs what is not here ({what}); {_INSTALL}")
    if _NEWEST.encode() not in read_file(root / "include/vulkan/vulkan_core.h", _HEADER_BYTES):
        raise UsageError(f"--vulkan: the headers are too old, they lack {_NEWEST}; {_INSTALL}")
    for name in _HEADERS:
        (folder / name).symlink_to(root / "include" / name)
    return [
        "GGML_VULKAN=ON",
        f"Vulkan_INCLUDE_DIR={folder}",
        f"Vulkan_LIBRARY={loader}",
        f"Vulkan_GLSLC_EXECUTABLE={programs['glslc']}",
    ]
