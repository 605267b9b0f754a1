"""The demo model, which runs when the user names no model: the package's demo checkpoint, converted on first use.

The file is in the user's data folder. Its name has a hash of the checkpoint, so a new version of the package makes a
new file, and removes the old one. Two programs that start at once both convert, and the second rename puts the same
bytes there.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import tempfile
from pathlib import Path

import platformdirs

from .. import __version__
from ..errors import StorageError
from ..system.private import make_folder
from .progress import progress_bar

DEMO_ID = "glm-edge-demo"


def demo_model() -> Path:
    """The GGUF file of the demo model; made now if this is the first use.

    Raises StorageError when the package came without the checkpoint or the data folder cannot be written.
    """
    checkpoint = _checkpoint()
    folder = Path(platformdirs.user_data_dir("glm-edge", appauthor=False))
    target = folder / f"{DEMO_ID}-{_version(checkpoint)}.gguf"
    try:
        if target.exists():
            return target
        make_folder(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".demo-") as temporary:
            made = _convert(checkpoint, Path(temporary) / target.name)
            made.chmod(0o600)  # who can write it decides what runs here
            os.replace(made, target)
        _remove_older(folder, target.name)
    except OSError as error:
        advice = "set HOME, or XDG_DATA_HOME on Linux, to a folder you can write, or name a model with --model FILE"
        raise StorageError(f"{target}: cannot put the demo model there: {error.strerror}; {advice}") from error
    return target


def _remove_older(folder: Path, current: str) -> None:
    """Remove the demo models that other versions of the package made: nothing but their exact names."""
    made = re.compile(re.escape(DEMO_ID) + r"-[0-9a-f]{12}\.gguf")
    for path in folder.iterdir():
        if made.fullmatch(path.name) and path.name != current and not path.is_symlink() and path.is_file():
            with contextlib.suppress(OSError):  # in use, on Windows
                path.unlink()


def banner(n_params: int) -> str:
    """The line that tells the user that the demo model answers."""
    return (
        f"demo model, {n_params / 1e6:.0f} million weights, knows a few dozen things;"
        " for ChatGLM2-6B: glm-edge pull THUDM/chatglm2-6b"
    )


def _checkpoint() -> Path:
    spec = importlib.util.find_spec("glm_edge.demo")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(place) / "config.json").exists():
            return Path(place)
    raise StorageError(
        "this installation has no demo model; make a model with glm-edge convert CHECKPOINT and name it with"
        " --model FILE"
    )


def _version(checkpoint: Path) -> str:
    """A hash for the file's name, of the checkpoint and of the version that converts it."""
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(checkpoint.iterdir()):
        if path.suffix in {".json", ".bin", ".model"}:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _convert(checkpoint: Path, out: Path) -> Path:
    from glm_edge.convert.convert import convert

    with progress_bar("preparing the demo model") as progress:
        return convert(checkpoint, out, type="f16", progress=progress).path
