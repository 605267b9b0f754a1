"""States on disk are believed only from where nobody else could have put them, and only with the folder's secret."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glm_edge.engine.prefix_cache.store import LEAST_WRITTEN, Store

IDENTITY = bytes(32)
MINE, THEIRS = b"m" * 32, b"t" * 32  # scopes
A, B = (list(range(start, start + LEAST_WRITTEN)) for start in (1000, 2000))

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners, modes and pipes are POSIX's")


def saved(folder: Path, tokens: list[int], state: bytes = b"state", scope: bytes = b"") -> Path:
    """Store a block; its file."""
    before = set(folder.glob("*.prefix"))
    store = Store(folder, IDENTITY)
    key, start, _ = store.end(tokens, scope)
    store.put(key, start, tokens[start:], memoryview(bytearray(state)), scope)
    store.close()
    (path,) = set(folder.glob("*.prefix")) - before
    return path


def loaded(folder: Path | None, tokens: list[int], scope: bytes = b"", model: Path | None = None) -> list[bytes | None]:
    store = Store(folder, IDENTITY, model=model)
    states = [store.load(block) for block, _ in store.find(tokens, scope)]
    return [None if state is None else bytes(state) for state in states]


def warnings(folder: Path | None, model: Path | None = None) -> list[str]:
    return Store(folder, IDENTITY, model=model).warnings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "prefixes"
    saved(path, A)
    return path


@pytest.mark.case("N9")
def test_a_block_is_found_in_its_scope_alone(tmp_path: Path) -> None:
    saved(tmp_path, A, b"mine", MINE)
    saved(tmp_path, A, b"theirs", THEIRS)
    saved(tmp_path, A + B, b"more", MINE)
    assert loaded(tmp_path, A + B, MINE) == [b"mine", b"more"]
    assert loaded(tmp_path, A + B, THEIRS) == [b"theirs"]
    assert loaded(tmp_path, A + B) == []


@pytest.mark.case("N9")
def test_bundled_blocks_are_for_all_and_what_continues_them_is_not(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.touch()
    bundled = tmp_path / "model.gguf.prefixes"
    maker = Store(bundled, IDENTITY, model=model)
    maker.put(IDENTITY, 0, A, memoryview(bytearray(b"bundled")))
    maker.close()
    own = tmp_path / "own"
    store = Store(own, IDENTITY, model=model)
    key, start, _ = store.end(A + B, MINE)
    assert start == len(A)
    store.put(key, start, B, memoryview(bytearray(b"mine")), MINE)
    store.close()
    assert loaded(own, A + B, MINE, model) == [b"bundled", b"mine"]
    assert loaded(own, A + B, THEIRS, model) == [b"bundled"]
    assert loaded(own, A + B, model=model) == [b"bundled"]


DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "blake2b without a key": lambda data: hashlib.blake2b(data, digest_size=32).digest(),
    "nothing": lambda data: bytes(32),
}


@pytest.mark.case("N20")
@pytest.mark.parametrize("digest", DIGESTS.values(), ids=DIGESTS)
def test_a_state_forged_without_the_secret_is_not_loaded(folder: Path, digest: Callable[[bytes], bytes]) -> None:
    (path,) = folder.glob("*.prefix")
    content = path.read_bytes()[:-32].replace(b"state", b"other")
    path.write_bytes(content + digest(content))
    assert loaded(folder, A) == [None]


@pytest.mark.case("N20")
def test_a_file_put_in_the_place_of_another_is_not_loaded(folder: Path) -> None:
    (first,) = folder.glob("*.prefix")
    second = saved(folder, B, b"other")
    store = Store(folder, IDENTITY)
    shutil.copyfile(second, first)  # after the store has seen which tokens are in it
    (found,) = store.find(A)
    assert store.load(found[0]) is None
    (found,) = store.find(B)
    assert bytes(store.load(found[0]) or b"") == b"other"


@pytest.mark.case("N20")
def test_files_of_another_folder_are_worth_nothing_here(folder: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    path = saved(here, B)
    path.unlink()
    for foreign in folder.glob("*.prefix"):
        shutil.copyfile(foreign, here / foreign.name)
    assert loaded(here, A) == [None]


KEYS: dict[str, Callable[[Path], object]] = {
    "readable": lambda path: path.chmod(0o644),
    "short": lambda path: path.write_bytes(b"x"),
    "long": lambda path: path.write_bytes(b"x" * 1000),
    "a link": lambda path: (path.rename(path.with_name("real")), path.symlink_to("real")),
    "a loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}


@pytest.mark.case("N20", "N2")
@pytest.mark.parametrize("spoil", KEYS.values(), ids=KEYS)
def test_without_a_good_key_file_the_folder_is_not_used(folder: Path, spoil: Callable[[Path], object]) -> None:
    spoil(folder / "key")
    (line,) = warnings(folder)
    assert str(folder / "key") in line
    assert "not used" in line
    assert loaded(folder, A) == []
    before = list(folder.iterdir())
    store = Store(folder, IDENTITY)
    store.put(IDENTITY, 0, B, memoryview(bytearray(b"state")))
    store.close()
    assert list(folder.iterdir()) == before


@pytest.mark.case("N20")
def test_a_removed_key_file_is_made_again_and_older_states_are_dropped(folder: Path) -> None:
    (folder / "key").unlink()
    assert loaded(folder, A) == [None]
    saved(folder, B)
    assert loaded(folder, B) == [b"state"]


ENTRIES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a file": lambda path: path.symlink_to(path.with_name("file")),
    "a loop": lambda path: path.symlink_to(path.name),
    "a file that others write": lambda path: (path.touch(), path.chmod(0o666)),
}


@pytest.mark.case("N2")
@pytest.mark.parametrize("make", ENTRIES.values(), ids=ENTRIES)
def test_what_is_no_file_of_ours_in_the_folder_is_ignored_and_left(
    folder: Path, make: Callable[[Path], object]
) -> None:
    (folder / "file").touch()
    make(folder / "x.prefix")
    make(folder / "x.tmp")
    assert loaded(folder, A) == [b"state"]
    (line,) = warnings(folder)
    assert "1 entries" in line
    assert os.path.lexists(folder / "x.prefix")
    saved(folder, B)
    assert loaded(folder, B) == [b"state"]


def chown(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(path, 12345, 12345)


FOLDERS: dict[str, Callable[[Path], object]] = {
    "others write it": lambda path: path.chmod(0o777),
    "a group writes it": lambda path: path.chmod(0o770),
    "others own it": chown,
    "a file": lambda path: (shutil.rmtree(path), path.touch()),
    "a pipe": lambda path: (shutil.rmtree(path), os.mkfifo(path)),
    "a loop": lambda path: (shutil.rmtree(path), path.symlink_to(path.name)),
    "a device": lambda path: (shutil.rmtree(path), path.symlink_to("/dev/zero")),
}


@pytest.mark.case("N2")
@pytest.mark.parametrize("spoil", FOLDERS.values(), ids=FOLDERS)
def test_a_folder_in_reach_of_others_is_not_used(folder: Path, spoil: Callable[[Path], object]) -> None:
    spoil(folder)
    (line,) = warnings(folder)
    assert line.startswith(f"{folder}: ")
    assert "\n" not in line
    store = Store(folder, IDENTITY)
    assert store.find(A) == []
    store.put(IDENTITY, 0, B, memoryview(bytearray(b"in memory")))
    store.close()
    assert [bytes(store.load(block) or b"") for block, _ in store.find(B)] == [b"in memory"]
    if folder.is_dir():
        assert len(list(folder.glob("*.prefix"))) == 1


@pytest.mark.case("N2")
@pytest.mark.parametrize("spoil", FOLDERS.values(), ids=FOLDERS)
def test_bundled_prefixes_that_others_could_have_changed_are_not_used(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    model = tmp_path / "model.gguf"
    model.touch(0o644)
    bundled = tmp_path / "model.gguf.prefixes"
    maker = Store(bundled, IDENTITY, model=model)
    maker.put(IDENTITY, 0, A, memoryview(bytearray(b"bundled")))
    maker.close()
    assert loaded(None, A, MINE, model) == [b"bundled"]
    spoil(bundled)
    (line,) = warnings(None, model)
    assert line.startswith(f"{bundled}: ")
    assert loaded(None, A, MINE, model) == []


@pytest.mark.case("N2")
def test_bundled_prefixes_are_trusted_as_much_as_the_model(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.touch()
    bundled = tmp_path / "model.gguf.prefixes"
    maker = Store(bundled, IDENTITY, model=model)
    maker.put(IDENTITY, 0, A, memoryview(bytearray(b"bundled")))
    maker.close()
    model.chmod(0o664)
    bundled.chmod(0o775)
    assert loaded(None, A, model=model) == [b"bundled"]
    assert warnings(None, model) == []


@pytest.mark.case("N15")
def test_folder_key_and_files_are_the_owners_alone_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        saved(tmp_path / "cache" / "glm-edge" / "prefixes", A)
    finally:
        os.umask(before)
    for path in (tmp_path / "cache").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


@pytest.mark.case("N2")
def test_a_folder_that_is_not_used_is_said_in_one_line_and_the_answer_comes(tiny_f32: Path, tmp_path: Path) -> None:
    folder = tmp_path / "glm-edge" / "prefixes"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-m", "glm_edge", "chat", "--model", str(tiny_f32), "--prompt", "hello", "--max-tokens", "2"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith(f"warning: {folder}: ")]) == 1
