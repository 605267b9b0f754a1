"""Text that an installed system brings: manual pages, documentation, docstrings and Chinese translations of programs.

A document is what came out of one file. Paragraphs that came before, in any file, are left out: licences repeat.
Nothing of the text enters the project.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import re
import struct
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

SHORTEST = 200  # characters of a document, after what repeats went
LONGEST = 30_000  # and at most: no manual may rule
FAMILY = 25  # documents at most of one folder whose names begin alike: some programs have thousands of pages
MANUALS, DOCUMENTS = Path("/usr/share/man"), Path("/usr/share/doc")
LANGUAGES = ("zh_CN", "zh_TW")


def documents(megabytes: float) -> Iterator[tuple[str, str]]:
    """Path and text of documents, in an order that depends on the paths alone, until they are so many bytes.

    All Chinese is taken, because there is little; the rest comes from all kinds of files.
    """
    chinese, others = _chinese_files(), _other_files()
    order = sorted(chinese, key=_hash) + sorted(others, key=_hash)
    seen: set[bytes] = set()
    families: Counter[str] = Counter()
    size = 0
    for path in order:
        family = f"{Path(path).parent} {re.split('[_.]', Path(path).name)[0]}"
        if path in others and families[family] == FAMILY:
            continue
        read = chinese.get(path) or others[path]
        try:
            text = read(Path(path))
        except (OSError, EOFError, ValueError, SyntaxError, RecursionError, struct.error):
            continue
        text = _new(text, seen)
        if len(text) < SHORTEST:
            continue
        families[family] += 1
        yield path, text
        size += len(text.encode())
        if size > megabytes * 1e6:
            return


def _hash(path: str) -> bytes:
    return hashlib.sha256(path.encode()).digest()


def held_out(path: str) -> bool:
    """Whether the text of this file is kept for measuring: one file in 40."""
    return int.from_bytes(_hash("held out " + path)[:4], "big") % 40 == 0


def _new(text: str, seen: set[bytes]) -> str:
    """The paragraphs of `text` that are not in `seen`, without regard to digits and spaces, and adds them to it."""
    kept = []
    for paragraph in re.split(r"\n\s*\n", text[:LONGEST]):
        key = hashlib.sha256(re.sub(r"[\s\d]+", "", paragraph).encode()).digest()[:12]
        if key not in seen and paragraph.strip():
            seen.add(key)
            kept.append(paragraph.rstrip())
    return "\n\n".join(kept)


def _chinese_files() -> dict[str, Callable[[Path], str]]:
    found: dict[str, Callable[[Path], str]] = {}
    for language in LANGUAGES:
        for path in Path("/usr/share/locale", language, "LC_MESSAGES").glob("*.mo"):
            found[str(path)] = _translations
        for path in (MANUALS / language).glob("man*/*.gz"):
            found[str(path)] = _manual
    return found


def _other_files() -> dict[str, Callable[[Path], str]]:
    found: dict[str, Callable[[Path], str]] = {}
    for section in "15678":
        found |= {str(path): _manual for path in (MANUALS / f"man{section}").glob("*.gz")}
    for pattern in ("*.md", "*.txt", "*.rst", "README*", "copyright", "*.md.gz", "*.txt.gz", "README*.gz", "NEWS.gz"):
        found |= {str(path): _plain for path in DOCUMENTS.rglob(pattern) if path.is_file()}
    packages = [Path(entry) for entry in sys.path if entry.endswith("-packages")]
    for folder in (Path(sysconfig.get_paths()["stdlib"]), *packages):
        found |= {str(path): _docstrings for path in folder.rglob("*.py") if "test" not in str(path)}
    return found


def _plain(path: Path) -> str:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return data[: 4 * LONGEST].decode("utf-8", "strict" if len(data) <= 4 * LONGEST else "ignore")


def _translations(path: Path) -> str:
    """Of a .mo file (GNU gettext manual, "The Format of GNU MO Files"): each message, in the next line its translation.

    Messages with a plural or a context are left out.
    """
    data = path.read_bytes()
    order = "<" if data.startswith(b"\xde\x12\x04\x95") else ">"
    count, messages, translations = struct.unpack_from(f"{order}3I", data, 8)

    def texts(table: int) -> Iterator[str]:
        for entry in range(count):
            size, start = struct.unpack_from(f"{order}2I", data, table + 8 * entry)
            yield data[start : start + size].decode()

    pairs = zip(texts(messages), texts(translations), strict=True)
    return "\n\n".join(f"{a}\n{b}" for a, b in pairs if a and b and "\0" not in a and "\x04" not in a)


_ROFF_ESCAPES = [
    (r"\\f(\[\w*\]|\(\w\w|\w)", ""),
    (r"\\s[-+]?\d+", ""),
    (r"\\-", "-"),
    (r"\\\((lq|rq)", '"'),
    (r"\\\(aq", "'"),
    (r"\\\(bu", "*"),
    (r"\\\(em", "—"),
    (r"\\\*\((lq|rq)", '"'),
    (r"\\(&|\||\^|/|,|:|%|c|\{|\})", ""),
    (r"\\\"?#?.*$", ""),
]
_ROFF_TEXT = re.compile(r"\.\s*(SH|SS|B|I|BR|RB|BI|IB|IR|RI|IP|TP|Nm|Nd|Fl|Ar|Sh|Ss|It|Xr|Pa|Dq|Li|Em|Cm)\b ?(.*)")


def _manual(path: Path) -> str:
    """Plain text of a page's roff source: good enough to learn from."""
    lines: list[str] = []
    for line in _plain(path).splitlines():
        if line.startswith((".\\\"", "'\\\"")):
            continue
        line = line.replace("\\e", "\0")
        for pattern, value in _ROFF_ESCAPES:
            line = re.sub(pattern, value, line)
        line = line.replace("\0", "\\")
        if line.startswith((".", "'")):
            request = _ROFF_TEXT.match(line)
            if request is None or not request[2]:
                lines += [""] if line.startswith((".P", ".LP", ".TP", ".sp", ".IP", ".Pp")) else []
                continue
            words = request[2].replace('"', "")
            lines += ["", words] if request[1] in ("SH", "SS", "Sh", "Ss", "IP", "It") else [words]
        else:
            lines.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _docstrings(path: Path) -> str:
    """The docstrings of a module, each under the name of what it describes."""
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) > 40:
                found.append(f"{getattr(node, 'name', path.stem)}: {text}")
    return "\n\n".join(found)
