"""Which sound GGUF files are refused as models, and with what words; llama.cpp never sees those files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_edge.errors import GlmEdgeError, InvalidFileError, UnsupportedModelError
from glm_edge.model.checks import check_model, golden_texts, prefix_ids
from glm_edge.model.gguf import read_gguf
from support.engines.gguf_bytes import Key, build_model, tiny_keys, tiny_shapes

pytestmark = pytest.mark.case("M4")

Keys = dict[str, Key]
Shapes = dict[str, tuple[int, ...]]
Change = Callable[[Keys, Shapes, dict[str, int]], None]


@pytest.fixture
def check(tmp_path: Path) -> Callable[[Change], None]:
    """Checks the sound model after a change of its keys, shapes or tensor types."""

    def run(change: Change) -> None:
        keys, shapes, types = tiny_keys(), tiny_shapes(), dict[str, int]()
        change(keys, shapes, types)
        path = tmp_path / "model.gguf"
        path.write_bytes(build_model(keys, shapes, types))
        check_model(read_gguf(path))

    return run


def put(name: str, type_name: str, content: Any) -> Change:
    return lambda keys, shapes, types: keys.update({name: (type_name, content)})


def drop(name: str) -> Change:
    return lambda keys, shapes, types: (keys if name in keys else shapes).__delitem__(name)


def entry(name: str, index: int, content: Any) -> Change:
    """One element of an array changed."""
    return lambda keys, shapes, types: keys[name][1].__setitem__(index, content)


def cut(name: str) -> Change:
    """An array without its last element."""
    return lambda keys, shapes, types: keys[name][1].pop()


def shape(name: str, new: tuple[int, ...]) -> Change:
    return lambda keys, shapes, types: shapes.update({name: new})


def typed(name: str, type_id: int) -> Change:
    return lambda keys, shapes, types: types.update({name: type_id})


def architecture(name: str) -> Change:
    return put("general.architecture", "str", name)


def golden(content: Any) -> Change:
    return put("glm_edge.golden", "str", content if isinstance(content, str) else json.dumps(content))


C, T = "chatglm.", "tokenizer.ggml."

UNSUPPORTED: dict[str, tuple[Change, str]] = {
    "llama": (architecture("llama"), "architecture 'llama'; GLM Edge runs ChatGLM2-6B"),
    "glm4": (architecture("glm4"), "architecture 'glm4'"),
    "no_prefix_ids": (drop("glm_edge.prefix_ids"), "made by another program .*glm-edge convert"),
    "no_golden": (drop("glm_edge.golden"), "made by another program .*glm-edge convert"),
    "bpe_tokenizer": (put(T + "model", "str", "gpt2"), "tokenizer is 'gpt2', must be 'llama'"),
    "split": (put("split.count", "u16", 3), "one part of a split model"),
    "experts": (put(C + "expert_count", "u32", 10**6), "chatglm.expert_count"),
    "sliding_window": (put(C + "attention.sliding_window", "u32", 4), "chatglm.attention.sliding_window"),
    "rope_scaling": (put(C + "rope.scaling.type", "str", "yarn"), "chatglm.rope.scaling.type .'yarn'"),
}

INVALID: dict[str, tuple[Change, str]] = {
    "no_architecture": (drop("general.architecture"), "general.architecture is missing"),
    "architecture_a_number": (put("general.architecture", "u32", 1), "type u32, must be str"),
    "no_name": (drop("general.name"), "general.name is missing"),
    "name_with_escape": (put("general.name", "str", "a\x1b[2J"), "printable"),
    "block_count_missing": (drop(C + "block_count"), "chatglm.block_count is missing"),
    "block_count_0": (put(C + "block_count", "u32", 0), "block_count is 0, must be 1 to 512"),
    "block_count_10_6": (put(C + "block_count", "u32", 10**6), "block_count is 1000000, must be 1 to 512"),
    "block_count_too_many": (
        put(C + "block_count", "u32", 3),
        "7 tensors are wrong: blk.2.attn_norm.weight is missing",
    ),
    "block_count_too_few": (put(C + "block_count", "u32", 1), "blk.1.attn_norm.weight does not belong there"),
    "block_count_signed": (put(C + "block_count", "i32", 2), "type i32, must be u32"),
    "head_count_0": (put(C + "attention.head_count", "u32", 0), "head_count is 0"),
    "head_count_an_array": (put(C + "attention.head_count", "[u32]", [2, 2]), r"type \[u32\], must be u32"),
    "head_count_3": (put(C + "attention.head_count", "u32", 3), "multiple of the next"),
    "head_count_4": (put(C + "attention.head_count", "u32", 4), "heads are 2 long"),
    "head_count_kv_0": (put(C + "attention.head_count_kv", "u32", 0), "head_count_kv is 0"),
    "head_count_kv_3": (put(C + "attention.head_count_kv", "u32", 3), "multiple of the next"),
    "head_count_kv_2": (put(C + "attention.head_count_kv", "u32", 2), r"attn_qkv.weight has the shape \(8, 16\)"),
    "embedding_length_lie": (put(C + "embedding_length", "u32", 16), "rope.dimension_count is 2, must be 4"),
    "feed_forward_length_lie": (put(C + "feed_forward_length", "u32", 7), r"ffn_up.weight has the shape \(8, 12\)"),
    "context_length_0": (put(C + "context_length", "u32", 0), "context_length is 0"),
    "epsilon_nan": (put(C + "attention.layer_norm_rms_epsilon", "f32", float("nan")), "epsilon is nan"),
    "epsilon_0": (put(C + "attention.layer_norm_rms_epsilon", "f32", 0.0), "epsilon is 0.0"),
    "rope_dimension_8": (put(C + "rope.dimension_count", "u32", 8), "must be 2 by the other keys"),
    "freq_base_inf": (put(C + "rope.freq_base", "f32", float("inf")), "freq_base is inf"),
    "key_length_lie": (put(C + "attention.key_length", "u32", 8), "key_length is 8, must be 4"),
    "vocab_size_lie": (put(C + "vocab_size", "u32", 9), "vocab_size is 9, must be 264"),
    "tokens_missing": (drop(T + "tokens"), "tokenizer.ggml.tokens is missing"),
    "tokens_numbers": (put(T + "tokens", "[u32]", [1]), r"type \[u32\], must be \[str\]"),
    "tokens_fewer_than_rows": (shape("token_embd.weight", (8, 300)), r"token_embd.weight has the shape \(8, 300\)"),
    "output_has_other_rows": (shape("output.weight", (8, 263)), r"output.weight has the shape \(8, 263\), must be"),
    "tokens_and_scores_differ": (cut(T + "scores"), "264 tokens, 263 scores and 264 types"),
    "tokens_and_types_differ": (cut(T + "token_type"), "264 tokens, 264 scores and 263 types"),
    "token_twice": (entry(T + "tokens", 260, "▁a"), "264 tokens, but only 263 different ones"),
    "token_empty": (entry(T + "tokens", 260, ""), "token 260 is '', must not be empty"),
    "token_with_nul": (entry(T + "tokens", 260, "a\0b"), "token 260"),
    "token_type_7": (entry(T + "token_type", 260, 7), "token 260 has the type 7"),
    "score_nan": (entry(T + "scores", 5, float("nan")), "token 5 has the score nan"),
    "byte_token_negative": (entry(T + "tokens", 4, "<0x-1>"), "byte tokens .*'<0x-1>' is not right"),
    "byte_token_short": (entry(T + "tokens", 4, "<"), "byte tokens .*'<' is not right"),
    "byte_token_lower_case": (entry(T + "tokens", 13, "<0x0a>"), "byte tokens"),
    "byte_token_of_other_type": (entry(T + "token_type", 13, 1), "'<0x0A>' is not right"),
    "eos_missing": (drop(T + "eos_token_id"), "eos_token_id is missing"),
    "eos_out_of_range": (put(T + "eos_token_id", "u32", 264), "eos_token_id is 264, must be 0 to 263"),
    "pad_out_of_range": (put(T + "padding_token_id", "u32", 2**32 - 1), "padding_token_id is 4294967295"),
    "tensor_missing": (drop("blk.1.attn_qkv.bias"), "1 tensors are wrong: blk.1.attn_qkv.bias is missing"),
    "output_missing": (drop("output.weight"), "output.weight is missing"),
    "tensor_too_many": (shape("blk.0.attn_qkv.scale", (1,)), "blk.0.attn_qkv.scale does not belong there"),
    "tensor_transposed": (shape("blk.0.ffn_up.weight", (12, 8)), r"has the shape \(12, 8\), must be \(8, 12\)"),
    "norm_f16": (typed("output_norm.weight", 1), "output_norm.weight has the type f16, must be f32"),
    "weight_i32": (typed("output.weight", 26), "output.weight has the type i32, which holds no weights"),
    "prefix_ids_one": (put("glm_edge.prefix_ids", "[i32]", [3]), "has 1 token ids, must have 2"),
    "prefix_ids_unsigned": (put("glm_edge.prefix_ids", "[u32]", [1, 2]), r"type \[u32\], must be \[i32\]"),
    "prefix_ids_out_of_range": (put("glm_edge.prefix_ids", "[i32]", [1, -1]), "token id -1, must be 0 to 263"),
    "golden_not_json": (golden("["), "golden is not JSON"),
    "golden_deep": (golden("[" * 100_000), "golden is not JSON"),
    "golden_huge_number": (golden(f'[["a", [{"9" * 5000}]]]'), "golden is not JSON"),
    "golden_empty": (golden([]), "not empty"),
    "golden_an_object": (golden({}), "must be a list"),
    "golden_ids_floats": (golden([["a", [1.0]]]), "must be a list"),
    "golden_ids_bools": (golden([["a", [True]]]), "must be a list"),
    "golden_half_a_character": (golden('[["\\ud800", [1]]]'), "must be a list"),
    "golden_id_out_of_range": (golden([["a", [264]]]), "token id 264, must be 0 to 263"),
}


@pytest.mark.case("M4")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_another_kind_of_model_is_unsupported(check: Callable[[Change], None], name: str) -> None:
    refused(check, *UNSUPPORTED[name], UnsupportedModelError)


@pytest.mark.case("M4")
@pytest.mark.parametrize("name", INVALID)
def test_metadata_that_lies_is_invalid(check: Callable[[Change], None], name: str) -> None:
    refused(check, *INVALID[name], InvalidFileError)


def refused(check: Callable[[Change], None], change: Change, message: str, kind: type[GlmEdgeError]) -> None:
    with pytest.raises(kind, match=message) as caught:
        check(change)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


ALLOWED: dict[str, Change] = {
    "unchanged": put("general.name", "str", "tiny"),
    "hostile_chat_template": put("tokenizer.chat_template", "str", "{% for a in range(10**9) %}{{ a }}{% endfor %}"),
    "half_precision_weights": typed("output.weight", 1),
    "lengths_spelled_out": put(C + "attention.key_length", "u32", 4),
    "rope_ratio_of_the_32k_model": lambda keys, shapes, types: keys.update(
        {C + "rope.scaling.type": ("str", "linear"), C + "rope.scaling.factor": ("f32", 50.0)}
    ),
    "unknown_general_key": put("general.url", "str", "x"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_a_sound_model_passes(check: Callable[[Change], None], name: str) -> None:
    check(ALLOWED[name])


def test_the_keys_of_our_own_are_given_as_values(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(build_model(tiny_keys(), tiny_shapes()))
    file = read_gguf(path)
    assert prefix_ids(file) == (262, 263)
    assert golden_texts(file) == (("a", (259,)), ("", ()))


def test_llama_cpp_loads_what_passes(tmp_path: Path) -> None:
    """So that the cases above differ from a running model by their one change only."""
    from glm_edge.llama.model import Model

    path = tmp_path / "model.gguf"
    path.write_bytes(build_model(tiny_keys(), tiny_shapes()))
    check_model(read_gguf(path))
    model = Model(path)
    assert (model.n_vocab, model.eos, model.tokenize("a")) == (264, 2, [259])
    model.close()
