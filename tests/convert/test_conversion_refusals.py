"""What stops a conversion: one line that says what and where, the right error, and no file under the output's name."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.convert.convert import convert, default_output
from glm_edge.errors import GlmEdgeError, InvalidFileError, StorageError, UsageError
from glm_edge.model.checks import check_model
from glm_edge.model.gguf import read_gguf
from support.checkpoints.small_checkpoint import CONFIG, random_weights, tokenizer_proto, write_checkpoint

LAYER = "transformer.encoder.layers.1"
QKV = f"{LAYER}.self_attention.query_key_value.weight"
DOWN = f"{LAYER}.mlp.dense_4h_to_h.weight"
NORM = f"{LAYER}.input_layernorm.weight"
BIAS = f"{LAYER}.self_attention.query_key_value.bias"
OUTPUT = "transformer.output_layer.weight"

Weights = dict[str, NDArray[Any]]


def refused(checkpoint: Path, out: Path, kind: type[GlmEdgeError], **options: Any) -> str:
    """The message of the error that a conversion ends with; nothing may be left in the output's folder."""
    before = sorted(out.parent.iterdir()) if out.parent.is_dir() else []
    with pytest.raises(kind) as caught:
        convert(checkpoint, out, **options)
    assert "\n" not in str(caught.value)
    assert (sorted(out.parent.iterdir()) if out.parent.is_dir() else []) == before
    return str(caught.value)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "x.gguf"


@pytest.mark.case("M16")
def test_every_tensor_that_does_not_fit_is_listed_at_once(tmp_path: Path, out: Path) -> None:
    weights = random_weights()
    del weights[DOWN]
    weights["transformer.prefix_encoder.weight"] = np.zeros((4, 4), np.float16)
    weights[QKV] = weights[QKV].T.copy()
    weights[NORM] = weights[NORM].reshape(1, -1)
    weights[BIAS] = np.ones(weights[BIAS].shape, np.int8)
    weights[OUTPUT][0, 0] = np.nan  # is not reached
    message = refused(write_checkpoint(tmp_path / "model", weights=weights), out, InvalidFileError)
    for part in (
        "5 problems",
        f"{DOWN} is missing",
        "transformer.prefix_encoder.weight is not a tensor of this model",
        f"{QKV} has shape (256, 512) where config.json makes it (512, 256)",
        f"{NORM} has shape (1, 256)",
        f"{BIAS} holds ",
    ):
        assert part in message


@pytest.mark.case("M16")
def test_a_long_list_ends_with_the_number_left_out(tmp_path: Path, out: Path) -> None:
    weights = random_weights() | {f"extra.{n}": np.zeros(4, np.float16) for n in range(25)}
    message = refused(write_checkpoint(tmp_path / "model", weights=weights), out, InvalidFileError)
    assert "25 problems" in message
    assert message.count("is not a tensor of this model") == 20
    assert message.endswith("and 5 more")


class Bad(NamedTuple):
    tensor: str
    index: tuple[int, ...]
    value: float
    dtype: Any = np.float16
    type: str = "q4_0"


BAD = {
    "nan": Bad(DOWN, (255, 671), np.nan),
    "inf": Bad(OUTPUT, (0, 0), np.inf),
    "minus_inf": Bad(QKV, (300, 5), -np.inf),
    "nan_in_a_norm": Bad(NORM, (17,), np.nan),
    "inf_in_a_bias": Bad(BIAS, (511,), np.inf),
    "nan_into_f32": Bad(DOWN, (3, 4), np.nan, np.float32, "f32"),
    "beyond_f16": Bad(QKV, (2, 3), 7e4, np.float32, "f16"),
    "beyond_f16_scales": Bad(OUTPUT, (1, 2), -1e30, np.float32, "q8_0"),
}


@pytest.mark.case("M17")
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_weight_that_no_file_may_hold_is_named(tmp_path: Path, out: Path, bad: Bad) -> None:
    weights: Weights = {name: value.astype(bad.dtype) for name, value in random_weights().items()}
    weights[bad.tensor][bad.index] = bad.value
    message = refused(write_checkpoint(tmp_path / "model", weights=weights), out, InvalidFileError, type=bad.type)
    assert f"{bad.tensor}[{', '.join(map(str, bad.index))}] is {bad.value:g}" in message


@pytest.mark.case("M17")
@pytest.mark.parametrize("name", [DOWN, NORM, OUTPUT])
def test_a_tensor_of_zeros_is_named(tmp_path: Path, out: Path, name: str) -> None:
    weights = random_weights()
    weights[name][:] = 0
    message = refused(write_checkpoint(tmp_path / "model", weights=weights), out, InvalidFileError)
    assert f"every weight of {name} is zero" in message


def test_large_values_and_zero_biases_are_fine_in_f32(tmp_path: Path, out: Path) -> None:
    weights: Weights = {name: value.astype(np.float32) for name, value in random_weights().items()}
    weights[DOWN][0, 0] = 1e30
    weights[BIAS][:] = 0
    assert convert(write_checkpoint(tmp_path / "model", weights=weights), out, type="f32").path == out


@pytest.mark.case("M18")
@pytest.mark.parametrize(
    "changes",
    [{"layernorm_epsilon": 1e-12}, {"layernorm_epsilon": 0.1}, {"rope_ratio": 1e-6}, {"rope_ratio": 1e6}],
    ids=str,
)
def test_numbers_at_their_limits_make_a_file_that_is_taken(
    tmp_path: Path, out: Path, changes: dict[str, float]
) -> None:
    """Rounded to float32 they lie beyond them."""
    check_model(read_gguf(convert(write_checkpoint(tmp_path / "model", config=CONFIG | changes), out).path))


@pytest.mark.case("M19")
def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, out: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model", config=CONFIG | {"padded_vocab_size": 2048})
    assert "padded_vocab_size 2048" in refused(checkpoint, out, InvalidFileError)


@pytest.mark.case("M19")
def test_a_cut_tokenizer_is_refused(tmp_path: Path, out: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model", tokenizer=tokenizer_proto()[:-3])
    assert "tokenizer.model" in refused(checkpoint, out, InvalidFileError)


@pytest.mark.case("V6")
def test_a_full_disk_is_noticed_before_weights_are_read(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = random_weights()
    weights[OUTPUT][0, 0] = np.nan  # is not reached
    checkpoint = write_checkpoint(tmp_path / "model", weights=weights)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=123_000))
    message = refused(checkpoint, out, StorageError)
    assert "0.123 MB free" in message
    assert re.search(r"needs 1\.\d+ MB", message)


@pytest.mark.case("V7")
def test_an_existing_output_is_kept_and_nothing_is_read(tmp_path: Path, out: Path) -> None:
    out.write_bytes(b"old")
    assert "--force" in refused(tmp_path / "no checkpoint", out, UsageError)
    assert out.read_bytes() == b"old"


@pytest.mark.case("V7")
def test_force_replaces_an_existing_output(small_checkpoint: Path, out: Path) -> None:
    out.write_bytes(b"old")
    convert(small_checkpoint, out, force=True)
    assert out.read_bytes().startswith(b"GGUF")
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.case("V7")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "config.json", "tokenizer.model"])
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "a_link_to_it"])
def test_an_input_is_never_the_output(tmp_path: Path, out: Path, name: str, linked: bool) -> None:
    checkpoint = write_checkpoint(tmp_path / "model")
    content = (checkpoint / name).read_bytes()
    if linked:
        os.link(checkpoint / name, out)
    target = out if linked else checkpoint / name
    assert "input" in refused(checkpoint, target, UsageError, force=True)
    assert (checkpoint / name).read_bytes() == content


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


OUTPUTS: dict[str, tuple[Callable[[Path], Path], type[GlmEdgeError]]] = {
    "folder": (_folder, UsageError),
    "pipe": (_pipe, UsageError),
    "in_no_folder": (lambda path: path / "deeper.gguf", StorageError),
    "name_too_long": (lambda path: path.with_name("x" * 300 + ".gguf"), StorageError),
}


@pytest.mark.case("V7")
@pytest.mark.parametrize(("make", "error"), OUTPUTS.values(), ids=OUTPUTS.keys())
def test_an_output_that_cannot_be_a_file_is_refused(
    small_checkpoint: Path, out: Path, make: Callable[[Path], Path], error: type[GlmEdgeError]
) -> None:
    if make is _pipe and not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    target = make(out)
    assert str(target) in refused(small_checkpoint, target, error, force=True)


@pytest.mark.case("V7")
def test_a_read_only_folder_is_refused(small_checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # file modes do not bind every user that runs tests
    assert "not writable" in refused(small_checkpoint, out, StorageError)


@pytest.mark.case("V7")
@pytest.mark.parametrize("name", ["with space.gguf", "模型-😀.gguf", "模" * 80 + ".gguf"], ids=["space", "han", "long"])
def test_unusual_output_names_work(small_checkpoint: Path, out: Path, name: str) -> None:
    convert(small_checkpoint, out.with_name(name))
    assert [path.name for path in out.parent.iterdir()] == [name]


@pytest.mark.parametrize("options", [{"type": "q9_9"}, {"threads": 0}, {"threads": 10**6}], ids=str)
def test_unknown_types_and_absurd_threads_are_usage_errors(small_checkpoint: Path, out: Path, options: Any) -> None:
    refused(small_checkpoint, out, UsageError, **options)


def test_the_default_output_lies_in_models_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_output("chatglm2-6b", "q4_0") == Path("chatglm2-6b-q4_0.gguf")
    (tmp_path / "models").mkdir()
    assert default_output("chatglm2-6b", "q4_0") == Path("models/chatglm2-6b-q4_0.gguf")


@pytest.mark.parametrize("name", ["../../etc/x", "a/b\\c", "..", "", "con:1|2*?"])
def test_a_default_output_leads_nowhere_else(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = default_output(name, "q4_0")
    assert path.parent == Path()
    assert set(path.name).isdisjoint('/\\:|*?"<>')
