"""What lies at OUT.pull: a pull removes nothing that it did not make, and continues with what it can prove."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_edge.convert.pull.pull import pull
from glm_edge.errors import StorageError, UsageError
from support.checkpoints.fake_hub import REPO, Fault, Hub
from support.checkpoints.wide_checkpoint import shard


def fetch(hub: Hub, out: Path, **options: Any) -> list[str]:
    lines: list[str] = []
    pull(REPO, out, endpoint=hub.endpoint, say=lines.append, **{"retries": (), **options})
    return lines


def interrupted(hub: Hub, out: Path, at: str, **options: Any) -> Path:
    """A pull that ended in the middle of a file; returns its folder."""
    hub.faults = [Fault(at, cut=1000)]
    with pytest.raises(StorageError):
        fetch(hub, out, **options)
    hub.faults = []
    hub.asked.clear()
    hub.sent.clear()
    return out.with_name(f"{out.name}.pull")


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def folder_of_someone(place: Path, elsewhere: Path) -> None:
    (place / "chatglm2-small").mkdir(parents=True)
    (place / "thesis.txt").write_text("years of work")
    (place / "result").write_text("mine")
    (place / "chatglm2-small" / "config.json").write_text("{}")


def link_to_a_folder(place: Path, elsewhere: Path) -> None:
    folder_of_someone(elsewhere, place)
    place.symlink_to(elsewhere)


def link_to_a_pulls_folder(place: Path, elsewhere: Path) -> None:
    folder_of_someone(elsewhere, place)
    (elsewhere / "made-by-glm-edge-pull").touch()
    place.symlink_to(elsewhere)


def file_of_someone(place: Path, elsewhere: Path) -> None:
    place.write_text("mine")


def empty_link(place: Path, elsewhere: Path) -> None:
    place.symlink_to(elsewhere)


KINDS = [folder_of_someone, link_to_a_folder, link_to_a_pulls_folder, file_of_someone, empty_link]


@pytest.mark.case("N7")
@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_what_no_pull_made_is_not_touched(
    hub: Hub, out: Path, tmp_path: Path, make: Callable[[Path, Path], None], *, force: bool
) -> None:
    make(out.with_name("x.gguf.pull"), tmp_path / "elsewhere")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"x\.gguf\.pull: is .*--out"):
        fetch(hub, out, force=force)
    assert contents(tmp_path) == before
    assert hub.asked == []


@pytest.mark.case("N7")
@pytest.mark.parametrize("damage", ["torn", "gone"])
def test_without_a_journal_the_files_that_are_proven_are_kept(
    hub: Hub, out: Path, expected: bytes, damage: str
) -> None:
    folder = interrupted(hub, out, shard(2))
    journal = folder / "journal.json"
    (folder / "chatglm2-small" / shard(4)).write_bytes(hub.files[shard(4)])  # as a user who has no network may put it
    journal.unlink() if damage == "gone" else journal.write_bytes(journal.read_bytes()[:-200])
    hub.faults = [Fault("", status=404)]
    before = contents(folder)
    with pytest.raises(StorageError):
        fetch(hub, out)
    assert contents(folder) == before
    lines = fetch(hub, out)
    assert out.read_bytes() == expected
    assert "journal is gone or torn" in lines[0]
    assert f"GET {shard(2)} 1000" in hub.asked
    assert hub.sent[shard(4)] == hub.sent["tokenizer.model"] == 0
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.case("N7")
def test_force_says_what_it_removes(hub: Hub, out: Path) -> None:
    folder = interrupted(hub, out, shard(2), type="q8_0")
    (folder / "notes.txt").write_text("mine")
    lines = fetch(hub, out, force=True)
    assert lines[0].startswith(f"{folder}: --force removes the ")
    for name in ("journal.json", "chatglm2-small/config.json", f"chatglm2-small/{shard(2)}.part"):
        assert name in lines[0]
    assert "notes" not in lines[0]
    assert contents(folder) == {folder / "notes.txt": b"mine"}


@pytest.mark.case("N7")
def test_what_someone_put_into_a_pulls_folder_outlives_it(hub: Hub, out: Path, expected: bytes, tmp_path: Path) -> None:
    folder = interrupted(hub, out, shard(2))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "config.json").write_text("mine")
    (folder / "link").symlink_to(tmp_path / "photos")
    (folder / "chatglm2-small" / "notes.txt").write_text("mine")
    fetch(hub, out)
    assert out.read_bytes() == expected
    assert (folder / "chatglm2-small" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "photos" / "config.json").read_text() == "mine"


@pytest.mark.case("N7")
@pytest.mark.parametrize("name", ["chatglm2-small", f"chatglm2-small/{shard(2)}.part"])
def test_links_inside_are_not_written_through(hub: Hub, out: Path, tmp_path: Path, name: str) -> None:
    folder = interrupted(hub, out, shard(2))
    there, elsewhere = folder / name, tmp_path / "elsewhere"
    there.rename(elsewhere)
    there.symlink_to(elsewhere)
    before = contents(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()
    with pytest.raises(UsageError, match="is a link"):
        fetch(hub, out)
    assert (contents(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()) == before


@pytest.mark.parametrize("size", [0, 10, 90])
def test_a_pull_that_was_killed_at_its_start_is_continued(hub: Hub, out: Path, size: int) -> None:
    folder = out.with_name(f"{out.name}.pull")
    folder.mkdir()
    marker = b"glm-edge pull made this folder, continues with what is in it, and removes it when it is done.\n"
    (folder / "made-by-glm-edge-pull.x1y2z3.tmp").write_bytes(marker[:size])
    fetch(hub, out)
    assert out.exists()


def test_a_file_that_only_bears_the_markers_name_is_someones(hub: Hub, out: Path) -> None:
    folder = out.with_name(f"{out.name}.pull")
    folder.mkdir()
    (folder / "made-by-glm-edge-pull.x.tmp").write_text("mine")
    with pytest.raises(UsageError, match="no pull made it"):
        fetch(hub, out)
    assert contents(folder) == {folder / "made-by-glm-edge-pull.x.tmp": b"mine"}
