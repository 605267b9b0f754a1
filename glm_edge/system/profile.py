"""Profiles: the fastest settings, as `glm-edge bench --tune` or a first start measured them, in one file.

The verbs that load a model read it. A profile belongs to a kind of machine, the versions of the runtimes, and a model's
sizes and type. Where none fits, `device.py` and the memory plan choose. Options of the user override it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import platformdirs

from ..errors import GlmEdgeError, StorageError
from ..types import BatchCosts, EngineConfig, LoadMode, RuntimeName
from .atomic_write import atomic_write
from .private import make_folder
from .safe_open import read_file

SMALL = 256 << 20  # bytes; a smaller model is fast anyway, and how it is loaded a matter of chance
WRITABLE = "set HOME, or XDG_CONFIG_HOME on Linux, to a folder that you can write"  # what to do otherwise
_FILE_BYTES = 1 << 16
_MOST = 32  # profiles that are kept, of about 1 KB each: those measured last
_FORMAT = 4  # a file of another format is ignored


@dataclass(frozen=True)
class Profile:
    """What was found: fields of EngineConfig that a profile sets, and how it was measured."""

    n_threads: int
    n_threads_batch: int
    n_batch: int | None  # tokens, at most; None: not measured
    flash_attention: bool
    runtime: RuntimeName
    load_mode: LoadMode | None = None  # "mmap": the weights are faster as they are
    huge_pages: bool = True
    batch_costs: BatchCosts | None = None
    ik_speed: float | None = None  # of a request with ik_llama.cpp, relative to llama.cpp; None: not measured
    quick: bool = False  # measured at a first start, without loading again


_SET = ("n_threads", "n_threads_batch", "n_batch", "flash_attention", "runtime", "load_mode")  # where they are open


def profile_path() -> Path:
    """The file of this user's profiles.

    It is in the config folder, or in the data folder where the config folder is not to be written: a service of the
    machine has /etc/glm-edge, which is root's.
    """
    config, data = (
        Path(folder("glm-edge", appauthor=False)) / "profile.json"
        for folder in (platformdirs.user_config_dir, platformdirs.user_data_dir)
    )
    return config if can_save(config) or os.access(config, os.R_OK) or not can_save(data) else data


def save_profile(path: Path, profile: Profile, conditions: Mapping[str, object]) -> None:
    """Write the profile beside those of other conditions; the file whole or not at all. Raises StorageError.

    Args:
        conditions: the facts that the measurement depends on; `load_profile` must be given the same.
    """
    others = [kept for kept in _kept(path) if kept["conditions"] != dict(conditions)]
    kept = [*others[1 - _MOST :], {"conditions": dict(conditions), "profile": asdict(profile)}]
    text = json.dumps({"format": _FORMAT, "profiles": kept}, indent=1)
    try:
        make_folder(path.parent)
        atomic_write(path, [f"{text}\n".encode()])
    except OSError as error:
        raise StorageError(f"{path}: cannot write the profile: {error.strerror}; {WRITABLE}") from error


def ik_speeds(path: Path, conditions: Mapping[str, object]) -> dict[str, float]:
    """The speed of ik_llama.cpp by type of model, relative to llama.cpp, in profiles that have these conditions too."""
    found: dict[str, float] = {}
    for kept in _kept(path):
        given, profile = kept["conditions"], _profile(kept["profile"])
        fits = isinstance(given, dict) and conditions.items() <= given.items()
        if fits and profile is not None and profile.ik_speed is not None:
            found[str(given.get("type"))] = profile.ik_speed
    return found


def can_save(path: Path) -> bool:
    """Whether a profile can probably be written there."""
    folder = next((folder for folder in path.parents if os.path.exists(folder)), path.parent)
    return os.path.isdir(folder) and os.access(folder, os.W_OK)


def load_profile(path: Path, conditions: Mapping[str, object]) -> Profile | None:
    """The profile that was measured under these conditions; None where the file has none."""
    return next((_profile(kept["profile"]) for kept in _kept(path) if kept["conditions"] == dict(conditions)), None)


def _kept(path: Path) -> list[dict[str, Any]]:
    """The profiles in the file, each with its conditions; none where it is missing, damaged or of another format."""
    try:
        content = json.loads(read_file(path, _FILE_BYTES))
    except (GlmEdgeError, ValueError, RecursionError):
        return []
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        return []
    kept, fields = content.get("profiles"), {"conditions", "profile"}
    return [one for one in kept if isinstance(one, dict) and one.keys() == fields] if isinstance(kept, list) else []


def _profile(found: object) -> Profile | None:
    counts = ["n_threads", "n_threads_batch", "n_batch"]
    flags = ("flash_attention", "huge_pages", "quick")
    if not isinstance(found, dict) or found.keys() != Profile.__dataclass_fields__.keys():
        return None
    if found["n_batch"] is None:
        counts.remove("n_batch")
    if not all(type(found[name]) is int and 1 <= found[name] <= 4096 for name in counts):
        return None
    if not all(isinstance(found[name], bool) for name in flags):
        return None
    if found["runtime"] not in get_args(RuntimeName) or found["load_mode"] not in (None, "mmap"):
        return None
    if found["ik_speed"] is not None and not _is_positive(found["ik_speed"]):
        return None
    costs = _batch_costs(found["batch_costs"])
    if costs is None and found["batch_costs"] is not None:
        return None
    return Profile(**found | {"batch_costs": costs})


def _batch_costs(found: object) -> BatchCosts | None:
    match found:
        case {"repacked": bool(repacked), "seconds": [*seconds], **rest} if not rest:
            pass
        case _:
            return None
    for one in seconds:
        match one:
            case [int(rows), float(took)] if 1 <= rows <= 64 and _is_positive(took):
                continue
        return None
    return BatchCosts(repacked, tuple((rows, took) for rows, took in seconds))


def _is_positive(number: object) -> bool:
    return isinstance(number, float) and 0 < number < math.inf


def tuned(config: EngineConfig, profile: Profile | None) -> EngineConfig:
    """`config`, with settings that it leaves open taken from the profile, unless it asks for another runtime."""
    if profile is None or config.runtime not in (None, profile.runtime):
        return config
    found = {name: getattr(profile, name) for name in _SET if getattr(config, name) is None}
    if config.n_threads is not None:  # the user's number of threads holds for prefill too
        found.pop("n_threads_batch", None)
    elif not config.rpc:  # with them, batches were measured
        found["batch_costs"] = profile.batch_costs
    return replace(config, **found, huge_pages=config.huge_pages and profile.huge_pages)
