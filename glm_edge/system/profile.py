"""The profile: the fastest settings on this machine, as `glm-edge bench --tune` measured them, in a file.

The verbs that load a model read it. It belongs to a kind of machine, a version of llama.cpp and a model's sizes;
elsewhere it is ignored, and `device.py` and the memory plan choose. Options of the user override it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import platformdirs

from ..errors import GlmEdgeError, StorageError
from ..types import EngineConfig, RuntimeName
from .atomic_write import atomic_write
from .private import make_folder
from .safe_open import read_file

_FILE_BYTES = 1 << 16
_FORMAT = 2  # a profile of another format is ignored


@dataclass(frozen=True)
class Profile:
    """The fields of EngineConfig that a profile sets."""

    n_threads: int
    n_threads_batch: int
    n_batch: int  # tokens, at most
    flash_attention: bool
    runtime: RuntimeName


def profile_path() -> Path:
    """The file of this user's profile."""
    return Path(platformdirs.user_config_dir("glm-edge", appauthor=False)) / "profile.json"


def save_profile(path: Path, profile: Profile, machine: Mapping[str, object]) -> None:
    """Write the profile whole or not at all. Raises StorageError.

    Args:
        machine: the facts that the measurement depends on; `load_profile` must be given the same.
    """
    text = json.dumps({"format": _FORMAT, "machine": dict(machine), "profile": asdict(profile)}, indent=1)
    try:
        make_folder(path.parent)
        atomic_write(path, [f"{text}\n".encode()])
    except OSError as error:
        raise StorageError(
            f"{path}: cannot write the profile: {error.strerror}; set HOME, or XDG_CONFIG_HOME on Linux, to a folder"
            " that you can write"
        ) from error


def load_profile(path: Path, machine: Mapping[str, object]) -> Profile | None:
    """The profile in the file; None if there is none for this machine."""
    try:
        content = json.loads(read_file(path, _FILE_BYTES))
    except (GlmEdgeError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("machine") != dict(machine):
        return None
    found = content.get("profile")
    counts = ("n_threads", "n_threads_batch", "n_batch")
    if not isinstance(found, dict) or found.keys() != {*counts, "flash_attention", "runtime"}:
        return None
    if not all(type(found[name]) is int and 1 <= found[name] <= 4096 for name in counts):
        return None
    if not isinstance(found["flash_attention"], bool) or found["runtime"] not in ("llama", "ik"):
        return None
    return Profile(**found)


def tuned(config: EngineConfig, profile: Profile | None) -> EngineConfig:
    """`config`, with settings that it leaves open taken from the profile, unless it asks for another runtime."""
    if profile is None or config.runtime not in (None, profile.runtime):
        return config
    found = {name: value for name, value in asdict(profile).items() if getattr(config, name) is None}
    if config.n_threads is not None:  # the user's number of threads holds for prefill too
        found.pop("n_threads_batch", None)
    return replace(config, **found)
