"""A checkpoint folder: which files are opened, and every way in which they do not fit together."""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_edge.convert.source.checkpoint import Checkpoint, open_checkpoint
from glm_edge.errors import GlmEdgeError, InvalidFileError, StorageError, UnsupportedModelError
from support.checkpoints.small_checkpoint import CONFIG
from support.checkpoints.torch_writer import write_shard

INDEX = "pytorch_model.bin.index.json"
FIRST, SECOND = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
SHARDS = {
    FIRST: {"a": np.ones((2, 3), np.float16), "b": np.zeros(4, np.float16)},
    SECOND: {"c": np.full((3, 2), 2, np.float16)},
}
TOTAL = 12 + 8 + 12


def write_index(folder: Path, weight_map: Any, **metadata: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": TOTAL} | metadata, "weight_map": weight_map}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small checkpoint of two shards, complete."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.model").write_bytes(b"\n\x07pieces")
    for name, tensors in SHARDS.items():
        write_shard(folder / name, tensors)
    write_index(folder, {name: shard for shard, tensors in SHARDS.items() for name in tensors})
    return folder


def refused(folder: Path, kind: type[GlmEdgeError] = InvalidFileError) -> str:
    with pytest.raises(kind) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert message.isprintable()
    assert str(folder) in message
    return message


def test_the_official_format(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    assert isinstance(checkpoint, Checkpoint)
    assert (checkpoint.folder, checkpoint.tokenizer) == (tiny_checkpoint, tiny_checkpoint / "tokenizer.model")
    assert checkpoint.config.hidden_size == 64
    assert len(checkpoint.tensors) == 18
    assert checkpoint.tensors["transformer.output_layer.weight"].shape == (65024, 64)
    assert [file.path.name for file in checkpoint.files] == [
        INDEX,
        *(f"pytorch_model-0000{n}-of-00003.bin" for n in (1, 2, 3)),
        "tokenizer.model",
        "config.json",
    ]


def test_a_single_file(small_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(small_checkpoint)
    assert [file.path.name for file in checkpoint.files] == ["pytorch_model.bin", "tokenizer.model", "config.json"]
    assert checkpoint.tensors["transformer.encoder.layers.1.self_attention.dense.weight"].shape == (256, 256)


def test_tensors_are_found_in_their_shards(folder: Path) -> None:
    tensors = open_checkpoint(folder).tensors
    assert list(tensors) == ["a", "b", "c"]
    assert tensors["c"].read_rows(1, 3).tolist() == [[2, 2], [2, 2]]
    assert tensors["b"].read_rows(0, 1).shape == (1, 4)


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nowhere", StorageError)


def test_a_file_instead_of_a_folder(folder: Path) -> None:
    assert "is not a folder" in refused(folder / "config.json")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{name}: is missing" in refused(folder)


def test_config_comes_before_all_else(folder: Path) -> None:
    """Another model is said to be one even where its files have other names."""
    for path in folder.iterdir():
        path.unlink()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert "a model of type 'llama'" in refused(folder, UnsupportedModelError)


def test_no_weights(folder: Path) -> None:
    (folder / INDEX).unlink()
    assert "the weights are missing" in refused(folder)
    (folder / "model.safetensors").touch()
    assert "model.safetensors: is empty" in refused(folder)


def test_two_sets_of_weights(folder: Path) -> None:
    write_shard(folder / "pytorch_model.bin", SHARDS[FIRST])
    assert "remove the one" in refused(folder)


@pytest.mark.case("M7")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", FIRST, INDEX])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        (b"<html>", "an HTML page"),
        (b"", "is empty"),
    ],
    ids=["git-lfs", "html", "empty"],
)
def test_a_failed_download_is_called_one(folder: Path, name: str, content: bytes, what: str) -> None:
    (folder / name).write_bytes(content)
    message = refused(folder)
    assert what in message
    assert name in message


def pipe(path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.case("M7")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", FIRST, INDEX])
@pytest.mark.parametrize(
    ("make", "what"),
    [(Path.mkdir, "is a folder"), (pipe, "is a named pipe"), (loop, "a link that leads to itself")],
    ids=["folder", "pipe", "loop"],
)
@pytest.mark.skipif(os.name == "nt", reason="makes links and pipes")
def test_what_is_no_file_is_not_opened(folder: Path, name: str, make: Callable[[Path], None], what: str) -> None:
    (folder / name).unlink()
    make(folder / name)
    assert what in refused(folder)


@pytest.mark.case("M15")
@pytest.mark.skipif(os.name == "nt", reason="makes links")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", FIRST, INDEX])
def test_a_link_may_not_leave_the_folder(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "outside")
    (folder / name).symlink_to(folder.parent / "outside")
    assert f"{name}: a link that leads out of the folder" in refused(folder)
    (folder / "inside").mkdir()
    (folder.parent / "outside").rename(folder / "inside" / "file")
    (folder / name).unlink()
    (folder / name).symlink_to("inside/file")
    assert len(open_checkpoint(folder).tensors) == 3


@pytest.mark.skipif(os.name == "nt", reason="makes links")
def test_a_snapshot_in_the_hugging_face_cache(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(folder.iterdir()):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert len(open_checkpoint(snapshot).tensors) == 3
    (snapshot / FIRST).unlink()
    (snapshot / FIRST).symlink_to("../../../secret")
    assert "a link that leads out of the folder" in refused(snapshot)


@pytest.mark.case("M15")
@pytest.mark.parametrize(
    "name",
    ["../a.bin", "/etc/passwd", "a/b.bin", "C:\\a.bin", "C:a.bin", "\\\\srv\\share\\a.bin", "NUL.bin", "com1",
     "lpt9.x.y", "..", ".", "", ".hidden", "a.bin\n", "a.bin.", "a b.bin", "a\0.bin", "ａ.bin", "x" * 300],
)  # fmt: skip
def test_a_shard_name_is_a_plain_file_name(folder: Path, name: str) -> None:
    write_index(folder, {"a": name, "b": FIRST, "c": SECOND})
    assert "is not a plain file name" in refused(folder)


@pytest.mark.case("M15")
def test_shard_names_may_not_differ_in_case_alone(folder: Path) -> None:
    write_index(folder, {"a": FIRST, "b": FIRST.upper(), "c": SECOND})
    assert f"{FIRST.upper()} is there in two spellings" in refused(folder)


@pytest.mark.case("M15")
@pytest.mark.parametrize(
    ("index", "what"),
    [
        ({}, "weight_map is None"),
        ({"weight_map": []}, "weight_map is a list of 0"),
        ({"weight_map": {}}, "weight_map is a dict of 0"),
        ({"weight_map": {"a": 1}}, "weight_map has a value that is not text"),
        ({"weight_map": {"a": [FIRST]}}, "weight_map has a value that is not text"),
        ({"weight_map": {"a\nb": FIRST}}, r"'a\nb' is no name of a tensor"),
        ({"weight_map": {"a": FIRST}, "metadata": []}, "where tensor and shard names"),
        ({"weight_map": {"\ud800": "\ud800"}}, "half a surrogate pair"),
    ],
    ids=range(8),
)
def test_an_index_of_another_form(folder: Path, index: Any, what: str) -> None:
    (folder / INDEX).write_text(json.dumps(index))
    assert what in refused(folder)


@pytest.mark.case("M15")
def test_a_tensor_listed_twice_in_the_index(folder: Path) -> None:
    (folder / INDEX).write_text(f'{{"weight_map": {{"a": "{FIRST}", "a": "{SECOND}"}}}}')
    assert "the key 'a' twice in one object" in refused(folder)


@pytest.mark.case("M15")
@pytest.mark.parametrize("total", [TOTAL - 1, TOTAL + 1, 0, -1, "32", [], 1e300])
def test_a_wrong_total_size(folder: Path, total: Any) -> None:
    write_index(folder, {"a": FIRST, "b": FIRST, "c": SECOND}, total_size=total)
    assert f"the tensors have {TOTAL} bytes" in refused(folder)


def test_an_index_without_total_size(folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": FIRST, "b": FIRST, "c": SECOND}}))
    assert len(open_checkpoint(folder).tensors) == 3


@pytest.mark.case("M8")
def test_a_truncated_shard_is_named(folder: Path) -> None:
    content = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(content[: len(content) // 2])
    assert f"{SECOND}: cut short" in refused(folder)


@pytest.mark.case("M16")
def test_all_problems_are_in_one_message(folder: Path) -> None:
    third = "pytorch_model-00003-of-00003.bin"
    write_shard(folder / SECOND, {"b": SHARDS[FIRST]["b"], "d": SHARDS[FIRST]["b"]})
    write_shard(folder / "pytorch_model-00009-of-00009.bin", SHARDS[FIRST])
    write_index(folder, {"a": SECOND, "b": FIRST, "c": SECOND, "e": third})
    message = refused(folder)
    assert message.startswith(f"{folder}: 7 problems: ")
    for problem in (
        f"pytorch_model-00009-of-00009.bin is a shard that {INDEX} does not list",
        f"a is in {FIRST}, and {INDEX} has it in {SECOND}",
        f"a is not in {SECOND}, where {INDEX} has it",
        f"c is not in {SECOND}, where {INDEX} has it",
        f"b is in {FIRST} and in {SECOND}",
        f"d in {SECOND} is not listed in {INDEX}",
        f"{third}: is missing",
    ):
        assert problem in message


@pytest.mark.case("M16")
def test_twenty_problems_are_listed_and_the_rest_counted(folder: Path) -> None:
    write_index(folder, {"a": FIRST, "b": FIRST, "c": SECOND} | {f"x{n:02}": FIRST for n in range(25)})
    message = refused(folder)
    assert "25 problems: x00 is not in" in message
    assert "x19" in message
    assert message.endswith("; and 5 more")


@pytest.mark.case("M20")
def test_no_code_of_a_checkpoint_runs_and_nothing_is_fetched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*arguments: Any) -> None:
        raise AssertionError("a connection was attempted")

    for name in ("configuration_chatglm", "modeling_chatglm", "tokenization_chatglm", "__init__"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    config = CONFIG | {"auto_map": {"AutoConfig": "someone/else--configuration_chatglm.ChatGLMConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.chdir(folder)
    before = set(sys.modules)
    open_checkpoint(folder)
    assert not (tmp_path / "canary").exists()
    assert set(sys.modules) == before
