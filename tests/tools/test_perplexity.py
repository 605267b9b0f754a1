"""How well a model predicts a text: the figure, its definition, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from glm_edge.cli import glm_edge
from glm_edge.cli.run import run
from glm_edge.llama.model import Model
from glm_edge.model.checks import prefix_ids
from glm_edge.model.gguf import read_gguf
from glm_edge.tools.perplexity import split
from support.engines.oracle import Oracle


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, float]:
    assert run(glm_edge, ["perplexity", *arguments, "--threads", "1"], prog_name="glm-edge") == 0
    values: dict[str, float] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return values


def test_figure_is_the_one_of_a_forward_pass_computed_by_hand(
    tiny_checkpoint: Path, tiny_f32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("[Round 1]\n\n问：你好\n\n答：philosophy and 哲学 " * 5 + "\n", "utf-8")
    got = measured(capsys, str(text), "--model", str(tiny_f32))
    oracle, model, prefix = Oracle(tiny_checkpoint), Model(tiny_f32, vocab_only=True), prefix_ids(read_gguf(tiny_f32))
    losses = []
    for part in split(text.read_text("utf-8")):
        ids = [*prefix, *model.tokenize(part)]
        logits = oracle.logits(ids, oracle.cache()).astype(np.float64)
        logits -= np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) + logits.max(
            1, keepdims=True
        )
        losses += [-logits[i - 1, ids[i]] for i in range(len(prefix), len(ids))]
    model.close()
    assert got["tokens"] == len(losses)
    value = float(np.exp(np.mean(losses)))
    assert got["perplexity"] == pytest.approx(value, rel=1e-2)  # the cache is f16
    assert got["standard_error"] == pytest.approx(value * np.std(losses) / len(losses) ** 0.5, rel=2e-2)


def test_windows_of_any_length_cover_every_token(
    tiny_f32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("one two three " * 120, "utf-8")
    counts = {
        measured(capsys, str(text), "--model", str(tiny_f32), "--ctx", n)["tokens"] for n in ("64", "300", "2048")
    }
    assert len(counts) == 1


@pytest.mark.parametrize(
    ("content", "arguments", "code"),
    [
        pytest.param(b"", (), 3, id="empty text"),
        pytest.param(b"\xff", (), 3, id="not UTF-8"),
        pytest.param(b"GGUF\x03", (), 3, id="a model"),
        pytest.param(b"text", ("--ctx", "4096"), 2, id="context beyond the model's"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tiny_f32: Path, tmp_path: Path, content: bytes, arguments: tuple[str, ...], code: int
) -> None:
    text = tmp_path / "text"
    text.write_bytes(content)
    command = ["perplexity", str(text), "--model", str(tiny_f32), *arguments]
    assert run(glm_edge, command, prog_name="glm-edge") == code


def test_a_model_in_the_place_of_the_text_is_told_where_it_goes(
    tiny_f32: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(glm_edge, ["perplexity", str(tiny_f32)], prog_name="glm-edge") == 3
    assert "is a model, not a text; name it with --model" in capsys.readouterr().err
