"""`glm-edge imatrix`: the sums by hand where that is easy, the whole way to a converted model, and what is refused."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from glm_edge.cli import glm_edge
from glm_edge.cli.run import run
from glm_edge.convert.convert import convert
from glm_edge.convert.source.importance import Measured, read_importance
from glm_edge.llama.model import Model
from glm_edge.tools import imatrix
from glm_edge.tools.imatrix import TEXT, measure
from support.paths import PROJECT

CHUNK = 64
DEMO = PROJECT / "models" / "demo"
SENTENCES = "".join(f"[Round 1]\n\n问：{n}. 你好\n\n答：philosophy and 哲学 {7 * n} " for n in range(12))


def made(model: Path, out: Path, *options: str) -> int:
    return run(glm_edge, ["imatrix", str(model), "--out", str(out), "--threads", "1", *options], prog_name="glm-edge")


@pytest.fixture(scope="module")
def small_f32(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of few tokens, because gguf-py takes seconds to read a vocabulary of the real size."""
    return convert(small_checkpoint, tmp_path_factory.mktemp("gguf") / "small-f32.gguf", type="f32").path


def test_the_sums_are_those_of_the_inputs_computed_by_hand(small_f32: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(SENTENCES, "utf-8")
    assert made(small_f32, tmp_path / "i.gguf", "--text", str(tmp_path / "text"), "--ctx", str(CHUNK)) == 0
    loaded = Model(small_f32, vocab_only=True)
    ids = loaded.tokenize(SENTENCES)
    loaded.close()
    ids = ids[: len(ids) // CHUNK * CHUNK]
    weights = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(small_f32).tensors}
    rows = weights["token_embd.weight"][ids].astype(np.float64)
    rows /= np.sqrt((rows**2).mean(1, keepdims=True) + 1e-5)
    expected = ((rows * weights["blk.0.attn_norm.weight"]) ** 2).mean(0)
    found = read_importance(tmp_path / "i.gguf").columns
    np.testing.assert_allclose(found["blk.0.attn_qkv.weight"], expected, rtol=1e-4)
    assert found.keys() == {name for name in weights if name.startswith("blk.") and weights[name].ndim > 1}
    counts = [tensor for tensor in gguf.GGUFReader(tmp_path / "i.gguf").tensors if tensor.name.endswith(".counts")]
    assert {float(count.data[0]) for count in counts} == {len(ids)}


def test_the_demo_is_measured_on_the_text_that_comes_along_and_converted_with_it(tmp_path: Path) -> None:
    q8_0 = convert(DEMO, tmp_path / "q8_0.gguf", type="q8_0").path
    assert made(q8_0, tmp_path / "i.gguf") == 0
    plain = convert(DEMO, tmp_path / "plain.gguf", type="q4_k_m")
    with_it = convert(DEMO, tmp_path / "with.gguf", type="q4_k_m", imatrix=tmp_path / "i.gguf")
    assert with_it.types == plain.types
    assert with_it.errors != plain.errors
    assert all(0 < with_it.errors[kind] < 2 * plain.errors[kind] for kind in plain.errors if plain.errors[kind])


def test_it_stops_within_a_chunk_when_it_is_told_to(small_f32: Path) -> None:
    asked = []

    def stopped() -> bool:
        asked.append(threading.current_thread())
        return len(asked) > 5

    with closing(Model(small_f32, load_mode="mmap", repack=False)) as model, pytest.raises(CancelledError):
        measure(model, SENTENCES, CHUNK, 1, stopped=stopped)
    assert len(asked) < 12


def test_the_thread_that_gets_signals_is_not_the_one_that_computes(
    small_f32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In llama.cpp's callbacks a signal's exception would be lost."""
    (tmp_path / "text").write_text(SENTENCES, "utf-8")
    seen = []

    def noted(*arguments: Any) -> Measured:
        seen.append(threading.current_thread())
        return measure(*arguments)

    monkeypatch.setattr(imatrix, "measure", noted)
    assert made(small_f32, tmp_path / "i.gguf", "--text", str(tmp_path / "text"), "--ctx", str(CHUNK)) == 0
    assert len(seen) == 1
    assert seen[0] is not threading.main_thread()


@pytest.mark.parametrize("what", ["short", "there"])
def test_what_cannot_be_done_leaves_nothing_and_takes_nothing(
    small_f32: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, text = tmp_path / "i.gguf", tmp_path / "text"
    text.write_text("short" if what == "short" else TEXT.read_text("utf-8"), "utf-8")
    if what == "there":
        out.write_bytes(b"mine")
    assert made(small_f32, out, "--text", str(text)) != 0
    assert ("fewer than the 512" if what == "short" else "--force replaces it") in capsys.readouterr().err
    assert [path.read_bytes() for path in tmp_path.glob("*i.gguf*")] == ([b"mine"] if what == "there" else [])
