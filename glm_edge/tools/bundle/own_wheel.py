"""Our own wheel, made from what is installed: the same bytes for the same files, whoever makes it and where.

A normal installation lists its files, and each is compared with its hash there. An editable one names its source, whose
setup.cfg says what belongs to the packages. Files are stored as they are: what deflate makes depends on its version.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import io
import json
import os
import time
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlparse

from ... import __version__
from ...errors import IntegrityError, UsageError
from ...system.safe_open import read_file

NAME = "glm-edge"
_EPOCH = 1767225600  # 2026-01-01, where SOURCE_DATE_EPOCH says nothing else
_LEFT_OUT = {"INSTALLER", "REQUESTED", "RECORD", "WHEEL", "direct_url.json"}  # of the metadata: about this installation
_WHEEL = f"Wheel-Version: 1.0\nGenerator: {NAME} {__version__}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_FILE_BYTES = 64 << 20


def epoch() -> int:
    """The time that everything in a bundle has, in seconds since 1970. Raises UsageError for a wrong variable."""
    text = os.environ.get("SOURCE_DATE_EPOCH") or str(_EPOCH)
    if not text.isdecimal() or not 1980 <= time.gmtime(int(text) % (1 << 40)).tm_year < 2100:
        raise UsageError(f"SOURCE_DATE_EPOCH={text}: must be seconds since 1970, from 1980 on")
    return int(text)


def own_wheel() -> tuple[str, bytes]:
    """(file name, content) of the wheel of this installation.

    Raises UsageError where GLM Edge is not installed, IntegrityError where its files have changed.
    """
    try:
        installed = distribution(NAME)
    except PackageNotFoundError:
        raise UsageError("GLM Edge is not installed here, only found; install it with pip first") from None
    if installed.version != __version__:
        raise UsageError(f"GLM Edge {__version__} runs, and {installed.version} is installed; install it again")
    about = f"glm_edge-{__version__}.dist-info"
    source = _source(installed)
    files = dict(_of_source(source)) if source is not None else dict(_of_record(installed))
    files |= {name: data for name, data in _of_record(installed) if name.startswith(about)}
    files[f"{about}/WHEEL"] = _WHEEL.encode()
    lines = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in sorted(files.items())]
    files[f"{about}/RECORD"] = "".join([*lines, f"{about}/RECORD,,\n"]).encode()
    return f"glm_edge-{__version__}-py3-none-any.whl", _archive(files)


def _source(installed: Distribution) -> Path | None:
    """The folder that an editable installation is made of."""
    about = json.loads(installed.read_text("direct_url.json") or "{}")
    if not about.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlparse(about["url"]).path))


def _of_record(installed: Distribution) -> Iterator[tuple[str, bytes]]:
    for file in installed.files or ():
        name = file.as_posix()
        inside = name.startswith(("glm_edge/", "glm_edge-"))
        if not inside or file.suffix == ".pyc" or (".dist-info" in name and file.name in _LEFT_OUT):
            continue
        data = read_file(Path(str(file.locate())), _FILE_BYTES)
        if file.hash is not None and file.hash.mode == "sha256" and file.hash.value != _digest(data):
            raise IntegrityError(f"{file.locate()}: has changed since it was installed; install GLM Edge again")
        yield name, data


def _of_source(source: Path) -> Iterator[tuple[str, bytes]]:
    config = configparser.ConfigParser()
    config.read_string(read_file(source / "setup.cfg", _FILE_BYTES).decode())
    places = dict(line.split(" = ") for line in config["options"]["package_dir"].strip().splitlines())
    for package in config["options"]["packages"].split():
        parent = max((name for name in places if f"{package}.".startswith(f"{name}.")), key=len, default="")
        folder = source / places.get(parent, "") / package.removeprefix(parent).strip(".").replace(".", "/")
        patterns = ["*.py", *config.get("options.package_data", package, fallback="").split()]
        for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
            name = f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"
            yield name, read_file(path, _FILE_BYTES)


def _digest(data: bytes) -> str:
    """As RECORD has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _archive(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):  # the metadata last, as is usual
            entry = zipfile.ZipInfo(name, time.gmtime(epoch())[:6])
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # as on Unix
            archive.writestr(entry, files[name])
    return content.getvalue()
