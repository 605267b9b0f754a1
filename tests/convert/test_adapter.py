"""P-Tuning v2 checkpoints become adapters, and what is wrong with one is said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from glm_edge.cli import glm_edge
from glm_edge.convert.adapter import convert_adapter
from glm_edge.convert.convert import convert
from glm_edge.errors import GlmEdgeError, IntegrityError, InvalidFileError, UnsupportedModelError, UsageError
from glm_edge.model.adapter import read_adapter
from glm_edge.model.checks import check_model
from glm_edge.model.gguf import read_gguf
from glm_edge.tools.verify import verify
from support.checkpoints.safetensors_writer import write_safetensors
from support.checkpoints.small_checkpoint import CONFIG
from support.checkpoints.tuned_checkpoint import PREFIX, Encoder, random_encoder, write_tuned

PLAIN = random_encoder(CONFIG, 5)
PROJECTED = random_encoder(CONFIG, 5, projected=True)


@pytest.fixture
def adapter(small_checkpoint: Path, tmp_path: Path) -> Path:
    return convert_adapter(write_tuned(tmp_path / "tuned", PLAIN), small_checkpoint, tmp_path / "a.gguf").path


def test_a_checkpoint_and_its_gguf_file_give_the_same_adapter(small_checkpoint: Path, tmp_path: Path) -> None:
    model = convert(small_checkpoint, tmp_path / "model.gguf", type="f16").path
    tuned = write_tuned(tmp_path / "tuned", PROJECTED)
    first, second = (
        convert_adapter(tuned, base, tmp_path / f"{n}.gguf") for n, base in enumerate((small_checkpoint, model))
    )
    assert first.path.read_bytes() == second.path.read_bytes()
    assert (first.tokens, first.projected, first.size) == (5, True, first.path.stat().st_size)


@pytest.mark.parametrize(
    "prefix",
    [
        PREFIX,
        "prefix_encoder.",
        "",
        "module.transformer.prefix_encoder.",
        "base_model.model.transformer.prefix_encoder.",
    ],
)
def test_the_names_that_trainers_write_are_known(small_checkpoint: Path, tmp_path: Path, prefix: str) -> None:
    tuned = write_tuned(tmp_path / "tuned", PROJECTED, prefix=prefix)
    found = read_adapter(convert_adapter(tuned, small_checkpoint, tmp_path / "a.gguf").path)
    assert (found.tokens, found.name, len(found.keys)) == (5, "tuned", 2)


@pytest.mark.parametrize("type", ["f32", "f16", "bf16"])
def test_safetensors_and_every_type_of_floats_are_read(small_checkpoint: Path, tmp_path: Path, type: str) -> None:
    exact = {name: values.astype(np.float16).astype(np.float32) for name, values in PLAIN.items()}
    if type == "bf16":
        exact = {name: (values.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, values in PLAIN.items()}
    stored = {
        "f32": exact,
        "f16": {name: values.astype(np.float16) for name, values in exact.items()},
        "bf16": {name: (values.view(np.uint32) >> 16).astype(np.uint16) for name, values in exact.items()},
    }[type]
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    named = {PREFIX + name: values for name, values in stored.items()}
    write_safetensors(tuned / "model.safetensors", named, bf16=frozenset(named) if type == "bf16" else frozenset())
    found = read_adapter(convert_adapter(tuned, small_checkpoint, tmp_path / "a.gguf", type="f32").path)
    expected = exact["embedding.weight"].reshape(5, 2, 2, -1)
    for n in range(2):
        assert (found.values[n] == expected[:, n, 1]).all()


def without(name: str) -> Encoder:
    return {other: values for other, values in PROJECTED.items() if other != name}


def embedding(values: NDArray[Any]) -> Encoder:
    return {"embedding.weight": values}


WRONG_SHAPE = r"shape \(5, 7168\) where the model makes it \(5, 512\) \(2 layers x 2 x 2 groups x 64\)"
FAULTS: dict[str, tuple[Encoder, dict[str, object], str]] = {
    "missing": (without("trans.2.bias"), {}, r"trans\.2\.bias is missing"),
    "no-projection": (PLAIN, {"prefix_projection": True}, r"trans\.0\.weight is missing"),
    "no-embedding": (without("embedding.weight"), {}, r"embedding\.weight is missing"),
    "unknown": (PLAIN | {"trans.1.weight": np.zeros((2, 2), np.float32)}, {}, r"trans\.1\.weight does not belong to"),
    "another-model": (random_encoder({**CONFIG, "num_layers": 28}, 5), {}, WRONG_SHAPE),
    "hidden": (PROJECTED | {"trans.0.bias": np.zeros(9, np.float32)}, {}, r"trans\.0\.bias has the shape \(9,\)"),
    "flat": (embedding(np.zeros(512, np.float32)), {}, r"has the shape \(512,\)"),
    "integers": (embedding(np.zeros((5, 512), np.int64)), {}, "holds i64 where weights are f32, f16 or bf16"),
    "nan": (embedding(np.full((5, 512), np.nan, np.float32)), {}, "row 0: a weight is not a finite number"),
    "too-large": (embedding(np.full((5, 512), 1e6, np.float32)), {}, "f16 cannot hold; take --type f32"),
    "too-many": (random_encoder(CONFIG, 600), {}, "it has 600 cells, must be 1 to 512"),
    "length": (PLAIN, {"pre_seq_len": 7}, "pre_seq_len is 7 where the weights have 5"),
    "projection": (PROJECTED, {"prefix_projection": False}, "prefix_projection is false where the weights have one"),
}


@pytest.mark.parametrize(("encoder", "config", "problem"), FAULTS.values(), ids=FAULTS)
def test_what_does_not_fit_is_named(
    small_checkpoint: Path, tmp_path: Path, encoder: Encoder, config: dict[str, object], problem: str
) -> None:
    tuned = write_tuned(tmp_path / "tuned", encoder, **config)
    with pytest.raises(InvalidFileError, match=problem) as caught:
        convert_adapter(tuned, small_checkpoint, tmp_path / "a.gguf")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.gguf"))


def test_a_lora_is_told_where_it_belongs(small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(UsageError, match=r"is a LoRA; merge it .* --lora"):
        convert_adapter(tmp_path / "lora", small_checkpoint)
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({"peft_type": "PREFIX_TUNING"}))
    with pytest.raises(UsageError, match="is an adapter of PEFT"):
        convert_adapter(tmp_path / "lora", small_checkpoint)


def test_a_whole_checkpoint_is_no_adapter(small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="has no prefix encoder"):
        convert_adapter(small_checkpoint, small_checkpoint, tmp_path / "a.gguf")


def test_the_output_is_replaced_only_where_that_is_asked_for(
    small_checkpoint: Path, tmp_path: Path, adapter: Path
) -> None:
    before = adapter.read_bytes()
    with pytest.raises(UsageError, match="--force"):
        convert_adapter(tmp_path / "tuned", small_checkpoint, adapter)
    convert_adapter(tmp_path / "tuned", small_checkpoint, adapter, force=True)
    assert adapter.read_bytes() == before


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], type[GlmEdgeError]]] = {
    "data": (lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:], IntegrityError),
    "name": (lambda data: data.replace(b"tuned", b"tunee", 1), IntegrityError),
    "cut": (lambda data: data[:-100], InvalidFileError),
    "tensor": (lambda data: data.replace(b"blk.1.prefix_v", b"blk.1.prefix_w"), InvalidFileError),
    "type": (
        lambda data: data.replace(b"\x06\0\0\0\0\0\0\0prefix", b"\x06\0\0\0\0\0\0\0suffix"),
        UnsupportedModelError,
    ),
}


@pytest.mark.parametrize(("damage", "error"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_adapter_is_refused(
    adapter: Path, damage: Callable[[bytes], bytes], error: type[GlmEdgeError]
) -> None:
    data = adapter.read_bytes()
    assert verify(adapter).metadata["glm_edge.adapter.tokens"] == 5
    adapter.write_bytes(damage(data))
    assert adapter.read_bytes() != data
    with pytest.raises(error):
        read_adapter(adapter)
    with pytest.raises(error):
        verify(adapter)


def test_an_adapter_is_no_model_and_a_model_no_adapter(adapter: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="is an adapter, not a model"):
        check_model(read_gguf(adapter))
    model = convert(small_checkpoint, tmp_path / "model.gguf", type="f16").path
    with pytest.raises(UnsupportedModelError, match="is a model, not an adapter"):
        read_adapter(model)


def test_by_command(small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tuned = write_tuned(tmp_path / "adgen", PROJECTED)
    done = CliRunner().invoke(glm_edge, ["convert-adapter", str(tuned), "--for", str(small_checkpoint)])
    assert done.exit_code == 0, done.output
    assert "adgen-adapter.gguf: 0.0 MB, 5 cells in front of every prompt, with its projection" in done.output
    done = CliRunner().invoke(glm_edge, ["verify", "adgen-adapter.gguf", "--sources", str(tuned)])
    assert done.exit_code == 0, done.output
    assert "an adapter of 5 cells" in done.output
    shutil.rmtree(tuned)
    done = CliRunner().invoke(glm_edge, ["convert-adapter", str(tuned), "--for", str(small_checkpoint)])
    assert isinstance(done.exception, GlmEdgeError)
