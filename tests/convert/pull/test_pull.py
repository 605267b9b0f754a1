"""`glm-edge pull`: a repository becomes the file that `convert` makes of the same files, whatever the hub does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glm_edge.convert.convert import convert
from glm_edge.convert.pull.pull import pull
from glm_edge.errors import GlmEdgeError, IntegrityError, InvalidFileError, StorageError, UsageError
from glm_edge.tools.verify import verify
from support.checkpoints.fake_hub import REPO, Fault, Hub, files_of, serving
from support.checkpoints.safetensors_writer import write_safetensors
from support.checkpoints.small_checkpoint import CONFIG, random_weights, write_checkpoint
from support.checkpoints.torch_writer import write_shard

SHARDS = [f"pytorch_model-0000{n}-of-00003.bin" for n in (1, 2, 3)]


def write_shards(folder: Path) -> Path:
    """A checkpoint of three shards of torch.save."""
    write_checkpoint(folder)
    (folder / "pytorch_model.bin").unlink()
    weights = random_weights()
    names = list(weights)
    parts = [names[:6], names[6:14], names[14:]]
    weight_map = {}
    for shard, part in zip(SHARDS, parts, strict=True):
        write_shard(folder / shard, {name: weights[name] for name in part})
        weight_map |= dict.fromkeys(part, shard)
    total = sum(value.nbytes for value in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "tokenizer_config.json").write_text('{"name_or_path": "THUDM/chatglm2-small"}')
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("sharded") / "chatglm2-small")


def fetch(hub: Hub, out: Path, **options: Any) -> list[str]:
    """Pull with quick retries; the lines said."""
    lines: list[str] = []
    pull(REPO, out, endpoint=hub.endpoint, say=lines.append, **{"retries": (0.01, 0.01), **options})
    return lines


def got(hub: Hub) -> list[str]:
    """The files that were fetched, in order."""
    return [line.split()[1] for line in hub.asked if line.startswith("GET")]


def test_a_pull_makes_the_bytes_of_a_conversion_and_fetches_each_file_once(
    hub: Hub, out: Path, expected: bytes
) -> None:
    lines = fetch(hub, out)
    assert out.read_bytes() == expected
    assert list(out.parent.iterdir()) == [out]
    verify(out)
    small = ["config.json", "tokenizer.model", "tokenizer_config.json", "pytorch_model.bin.index.json"]
    assert got(hub) == [*small, *SHARDS]
    assert len(lines) == 1
    assert "needs" in lines[0]
    assert "3 of 3 shards" in lines[0]


@pytest.mark.case("M20")
def test_no_python_file_is_ever_asked_for(hub: Hub, out: Path) -> None:
    assert any(name.endswith(".py") for name in hub.files)
    fetch(hub, out)
    assert not any(".py" in line for line in hub.asked)


@pytest.mark.case("M15")
@pytest.mark.parametrize("shard", ["evil.py", "../x.bin", "other.bin"])
def test_an_index_cannot_name_another_file(hub: Hub, out: Path, shard: str) -> None:
    name = "pytorch_model.bin.index.json"
    index = json.loads(hub.files[name])
    index["weight_map"]["transformer.output_layer.weight"] = shard
    hub.files |= {name: json.dumps(index).encode(), shard: b"x"}
    with pytest.raises(InvalidFileError):
        fetch(hub, out)
    assert shard not in " ".join(hub.asked)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_weights_in_one_file(tmp_path: Path, out: Path, kind: str) -> None:
    folder = write_checkpoint(tmp_path / "chatglm2-small")
    if kind == "safetensors":
        (folder / "pytorch_model.bin").unlink()
        write_safetensors(folder / "model.safetensors", random_weights())
    with serving(Hub(files_of(folder))) as hub:
        fetch(hub, out, type="edge")
    assert out.read_bytes() == convert(folder, tmp_path / "y.gguf", type="edge").path.read_bytes()


@pytest.mark.parametrize("pieces", [1, 2], ids=["one_file", "scales_in_another_shard"])
def test_weights_of_4_bits(tmp_path: Path, out: Path, pieces: int) -> None:
    folder = int4_checkpoint(tmp_path / "chatglm2-small", pieces)
    with serving(Hub(files_of(folder))) as hub:
        fetch(hub, out)
        assert all(count <= 1 for count in map(got(hub).count, hub.files))
    assert out.read_bytes() == convert(folder, tmp_path / "y.gguf").path.read_bytes()


def int4_checkpoint(folder: Path, pieces: int) -> Path:
    write_checkpoint(folder, config=CONFIG | {"quantization_bit": 4})
    weights: dict[str, Any] = {}
    for name, value in random_weights().items():
        if ".layers." in name and value.ndim == 2:
            weights[name] = value.view("i1")[:, : value.shape[1] // 2].copy()
            weights[f"{name}_scale"] = abs(value[:, 0]) + value.dtype.type(0.001)
        else:
            weights[name] = value
    if pieces == 1:
        write_shard(folder / "pytorch_model.bin", weights)
        return folder
    (folder / "pytorch_model.bin").unlink()
    weight_map = {name: f"pytorch_model-0000{1 + name.endswith('_scale')}-of-00002.bin" for name in weights}
    for shard in set(weight_map.values()):
        write_shard(folder / shard, {name: value for name, value in weights.items() if weight_map[name] == shard})
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


BRIEF = {
    "cut": [Fault(SHARDS[1], cut=100_000), Fault(SHARDS[1], cut=1), Fault("config.json", cut=10)],
    "cut_and_no_ranges": [Fault(SHARDS[1], cut=100_000), Fault(SHARDS[1], ranges=False)],
    "busy": [Fault("", status=503), Fault(SHARDS[0], status=500), Fault(SHARDS[0], status=502)],
    "wrong_bytes_once": [Fault(SHARDS[2], content=b"x" * 1000), Fault("config.json", content=b"{}")],
    "page_once": [Fault("tokenizer.model", content=b"<html>log in</html>" * 1000)],
}


@pytest.mark.parametrize("faults", BRIEF.values(), ids=BRIEF.keys())
def test_what_goes_wrong_once_changes_nothing(hub: Hub, out: Path, expected: bytes, faults: list[Fault]) -> None:
    hub.faults = [Fault(**vars(fault)) for fault in faults]
    fetch(hub, out)
    assert not any(fault.times for fault in hub.faults)
    assert out.read_bytes() == expected


def test_after_a_cut_only_the_rest_is_fetched(hub: Hub, out: Path) -> None:
    hub.faults = [Fault(SHARDS[0], cut=100_000)]
    fetch(hub, out)
    assert f"GET {SHARDS[0]} 100000" in hub.asked
    assert hub.sent[SHARDS[0]] == len(hub.files[SHARDS[0]])


def flipped(content: bytes) -> bytes:
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


FOREVER: dict[str, tuple[dict[str, Any], type[GlmEdgeError], str]] = {
    "busy": ({"status": 503}, StorageError, "answers 503 for .*; run the same command later"),
    "cut": ({"cut": 0}, StorageError, "cannot be reached .*"),
    "gone": ({"status": 404, "code": "EntryNotFound"}, StorageError, f"has no {SHARDS[1]}; "),
    "forbidden": ({"status": 403}, StorageError, "answers 403"),
    "flipped": ({"content": flipped}, IntegrityError, "came twice and is not what the hub lists"),
    "longer": ({"content": lambda content: content + b"x"}, IntegrityError, "has .* bytes instead of"),
    "shorter": ({"content": lambda content: content[:-1]}, StorageError, "ends after|answers 416|cannot be reached"),
}


@pytest.mark.parametrize(("fault", "kind", "message"), FOREVER.values(), ids=FOREVER.keys())
def test_what_stays_wrong_is_one_line_and_can_be_continued(
    hub: Hub, out: Path, expected: bytes, fault: dict[str, Any], kind: type[GlmEdgeError], message: str
) -> None:
    if "content" in fault:
        fault = {"content": fault["content"](hub.files[SHARDS[1]])}
    hub.faults = [Fault(SHARDS[1], times=1000, **fault)]
    with pytest.raises(kind, match=message) as caught:
        fetch(hub, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    hub.faults, hub.asked[:] = [], []
    fetch(hub, out)
    assert out.read_bytes() == expected
    assert got(hub) == SHARDS[1:]


LISTING: dict[str, tuple[Fault, type[GlmEdgeError], str]] = {
    "gated": (Fault("", status=403, code="GatedRepo"), StorageError, "given access; .*HF_TOKEN"),
    "private": (Fault("", status=401, code="RepoNotFound"), StorageError, "no such repository, or not for you"),
    "no_repository": (Fault("", status=404, code="RepoNotFound"), StorageError, "check its name"),
    "down": (Fault("", status=500, times=9), StorageError, "answers 500"),
    "portal": (Fault("", content=b"<html>log in</html>"), StorageError, "is not the Hugging Face hub"),
    "nothing": (Fault("", content=b"{}"), StorageError, "is not the Hugging Face hub"),
}


@pytest.mark.parametrize(("fault", "kind", "message"), LISTING.values(), ids=LISTING.keys())
def test_a_hub_that_refuses_is_one_line(
    hub: Hub, out: Path, fault: Fault, kind: type[GlmEdgeError], message: str
) -> None:
    hub.faults = [Fault(**vars(fault))]
    with pytest.raises(kind, match=message) as caught:
        fetch(hub, out)
    assert "\n" not in str(caught.value)
    assert got(hub) == []
    assert list(out.parent.iterdir()) == []


def test_a_wrong_revision_is_named(hub: Hub, out: Path) -> None:
    with pytest.raises(StorageError, match=r"has no revision nowhere; .*--revision"):
        fetch(hub, out, revision="nowhere")


@pytest.mark.parametrize("repo", ["chatglm2-6b", "a/b/c", "THUDM/", "../x", "THUDM/--x..y"])
def test_what_is_no_name_of_a_repository_is_exit_2(hub: Hub, out: Path, repo: str) -> None:
    with pytest.raises(UsageError):
        pull(repo, out, endpoint=hub.endpoint, retries=())
    assert hub.asked == []
