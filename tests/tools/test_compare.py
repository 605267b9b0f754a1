"""How far one model is from another: the figures by the oracle's own forward pass, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from glm_edge.cli import glm_edge
from glm_edge.cli.run import run
from glm_edge.convert.convert import convert
from glm_edge.llama.model import Model
from glm_edge.model.checks import prefix_ids
from glm_edge.model.gguf import read_gguf
from glm_edge.tools.perplexity import split
from support.engines.oracle import Oracle

TEXT = "".join(f"[Round 1]\n\n问：{n}. 你好\n\n答：philosophy and 哲学 {7 * n} " for n in range(12))


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, float]:
    assert run(glm_edge, ["compare", *arguments, "--threads", "1", "--json"], prog_name="glm-edge") == 0
    (line,) = capsys.readouterr().out.splitlines()
    found: dict[str, float] = json.loads(line)
    return found


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text(TEXT, "utf-8")
    return path


def test_the_figures_are_those_of_a_forward_pass_computed_by_hand(
    tiny_checkpoint: Path, tiny_f32: Path, tiny_q4_0: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(capsys, str(tiny_f32), str(tiny_q4_0), "--text", str(text))
    oracle, model, prefix = Oracle(tiny_checkpoint), Model(tiny_f32, vocab_only=True), prefix_ids(read_gguf(tiny_f32))
    losses = []
    for part in split(TEXT):
        ids = [*prefix, *model.tokenize(part)]
        logits = oracle.logits(ids, oracle.cache()).astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        losses += [-logits[i - 1, ids[i]] for i in range(len(prefix), len(ids))]
    model.close()
    assert found["tokens"] == len(losses)
    assert found["perplexity_a"] == pytest.approx(float(np.exp(np.mean(losses))), rel=1e-2)
    assert 0 < found["kl_low"] <= found["kl"] <= found["kl_high"] < found["kl_p99"]
    assert 0 < found["agreement_low"] <= found["agreement"] <= found["agreement_high"] <= 1
    assert found["ratio"] == pytest.approx(found["perplexity_b"] / found["perplexity_a"])


def test_a_model_is_itself_and_a_coarser_type_is_further_away(
    tiny_checkpoint: Path,
    tiny_f32: Path,
    tiny_q4_0: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    same = compared(capsys, str(tiny_f32), str(tiny_f32), "--text", str(text), "--ctx", "64")
    assert (same["kl"], same["kl_high"], same["agreement"], same["ratio"]) == (0, 0, 1, 1)
    fine = convert(tiny_checkpoint, tmp_path / "q8.gguf", type="q8_0").path
    near, far = (compared(capsys, str(tiny_f32), str(b), "--text", str(text)) for b in (fine, tiny_q4_0))
    assert near["kl_high"] < far["kl_low"]
    assert near["bytes_b"] > far["bytes_b"]


def test_the_words_say_which_is_which(tiny_f32: Path, tiny_q4_0: Path, text: Path) -> None:
    done = CliRunner().invoke(glm_edge, ["compare", str(tiny_f32), str(tiny_q4_0), "--text", str(text)])
    assert done.exit_code == 0, done.output
    assert "tiny-q4_0.gguf against tiny-f32.gguf" in done.output
    assert "nats a token; 99th percentile" in done.output


@pytest.mark.parametrize(("content", "code"), [(b"", 3), (b"\xff\xfe", 3)], ids=["empty", "no-utf-8"])
def test_what_is_no_text_is_refused(tiny_f32: Path, tmp_path: Path, content: bytes, code: int) -> None:
    (tmp_path / "bad").write_bytes(content)
    arguments = ["compare", str(tiny_f32), str(tiny_f32), "--text", str(tmp_path / "bad")]
    assert run(glm_edge, arguments, prog_name="glm-edge") == code


def test_models_of_two_vocabularies_are_refused(
    tiny_f32: Path, small_checkpoint: Path, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = convert(small_checkpoint, tmp_path / "other.gguf", type="f16").path
    assert run(glm_edge, ["compare", str(tiny_f32), str(other), "--text", str(text)], prog_name="glm-edge") == 2
    assert "another vocabulary" in capsys.readouterr().err
