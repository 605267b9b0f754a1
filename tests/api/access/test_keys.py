"""Where keys come from, how they are compared, and how their file changes under a running server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glm_edge.api.access.keys import Keys, key_file_warnings
from glm_edge.errors import GlmEdgeError, StorageError, UsageError


def accepts(keys: Keys, key: str) -> bool:
    return keys.accept(f"Bearer {key}".encode(), None) and keys.accept(None, key.encode())


@pytest.mark.case("A4")
@pytest.mark.parametrize("right", [0, 1, 2, None])
def test_every_key_is_compared_whatever_matched_before(right: int | None) -> None:
    compared: list[bytes] = []

    def equal(ours: bytes, offered: bytes) -> bool:
        compared.append(ours)
        return ours == offered

    given = ["key-0", "key-1", "key-2"]
    keys = Keys(given, equal=equal)
    offered = "wrong" if right is None else given[right]
    assert keys.accept(f"Bearer {offered}".encode(), None) is (right is not None)
    assert len(set(compared)) == 3
    assert len(compared) == 6  # three keys with each of the two headers


def test_keys_come_from_options_environment_and_file_together(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"\r\nin-file\r\n  second  \r\n\r\n")
    keys = Keys.collect(["option"], file, {"GLM_EDGE_API_KEY": "environment"})
    assert keys.required
    assert all(accepts(keys, key) for key in ("option", "environment", "in-file", "second"))
    assert not any(accepts(keys, key) for key in ("", "in-file\r", "other", "option,environment"))


def test_without_any_key_none_is_needed() -> None:
    keys = Keys.collect([], None, {})
    assert not keys.required
    assert keys.accept(None, None)


@pytest.mark.parametrize("key", ["", " ", "a b", "a\nb", "é", "钥匙", "a\0"], ids=repr)
def test_a_key_that_no_client_can_send_is_refused_and_not_shown(key: str, tmp_path: Path) -> None:
    for given, environment in (([key], {}), ([], {"GLM_EDGE_API_KEY": key})):
        with pytest.raises(UsageError) as error:
            Keys.collect(given, None, environment)
        assert "GLM_EDGE_API_KEY" in str(error.value)
        assert not key.strip() or key not in str(error.value)


@pytest.mark.case("A13")
@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"a b\n", b"\xff\xfe"], ids=repr)
def test_a_key_file_without_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="keys"):
        Keys(file=file)


def test_a_missing_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        Keys(file=tmp_path / "nowhere")


@pytest.mark.case("A13")
@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_key_file_that_others_can_read_or_that_repeats_a_key_is_warned_about(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("a\nb\na\n")
    file.chmod(0o644)
    world, double = key_file_warnings(file)
    assert "chmod 600" in world
    assert "twice" in double
    file.write_text("a\nb\n")
    file.chmod(0o600)
    assert key_file_warnings(file) == []


@pytest.mark.case("A4")
def test_a_key_is_revoked_and_another_let_in_by_changing_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    keys = Keys(["given"], file)
    assert accepts(keys, "old")
    file.write_text("new-key\n")
    assert not accepts(keys, "old")
    assert accepts(keys, "new-key")
    assert accepts(keys, "given")


@pytest.mark.parametrize("how", ["deleted", "emptied", "spoilt"])
def test_a_file_that_goes_wrong_opens_nothing(tmp_path: Path, how: str) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    keys = Keys(file=file)
    if how == "deleted":
        file.unlink()
    else:
        file.write_bytes(b"" if how == "emptied" else b"\xff\xff\xff")
    assert keys.required
    assert not accepts(keys, "old")
    assert not keys.accept(None, None)
    file.write_text("again\n")
    assert accepts(keys, "again")


@pytest.mark.case("A4")
@pytest.mark.skipif(os.name != "posix", reason="limits open files with setrlimit")
def test_a_changed_file_that_cannot_be_read_now_is_read_by_the_next_request(tmp_path: Path) -> None:
    import resource

    file = tmp_path / "keys"
    file.write_text("old\n")
    keys = Keys(file=file)
    file.write_text("new-key\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert not accepts(keys, "old")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert accepts(keys, "new-key")


@pytest.mark.case("A4")
def test_a_read_that_fails_leaves_no_revoked_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    keys = Keys(file=file)
    file.write_text("new-key\n")

    def no_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", no_memory)
        with pytest.raises(MemoryError):
            keys.accept(b"Bearer old", None)
    assert not accepts(keys, "old")
    assert accepts(keys, "new-key")


@pytest.mark.case("C2")
def test_keys_of_options_environment_and_file_all_open(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("of-file\n")
    keys = Keys.collect(["of-option"], file, {"GLM_EDGE_API_KEY": "of-environment"})
    assert all(accepts(keys, f"of-{source}") for source in ("option", "environment", "file"))
    assert not accepts(keys, "of-nowhere")
    assert keys.several
    assert not Keys(["same", "same"]).several
    with pytest.raises(UsageError, match="GLM_EDGE_API_KEY"):
        Keys.collect(["good"], file, {"GLM_EDGE_API_KEY": "not a key"})


def test_no_error_shows_a_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("secret with spaces\n")
    with pytest.raises(GlmEdgeError) as error:
        Keys(file=file)
    assert "secret" not in str(error.value)
