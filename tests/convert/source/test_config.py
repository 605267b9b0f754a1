"""config.json: what is read, and what is refused with what it is."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from glm_edge.convert.source.config import read_config
from glm_edge.errors import GlmEdgeError, InvalidFileError, UnsupportedModelError

# The keys of THUDM/chatglm2-6b's config.json that say something of the architecture.
CHATGLM2: dict[str, Any] = {
    "_name_or_path": "THUDM/chatglm2-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 32768,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}


def write(folder: Path, **changes: Any) -> Path:
    """A config.json; a key changed to None is left out."""
    path = folder / "config.json"
    path.write_text(json.dumps({key: value for key, value in (CHATGLM2 | changes).items() if value is not None}))
    return path


def refused(path: Path) -> str:
    """The message of the refusal, which is one line that begins with the file's name."""
    with pytest.raises(GlmEdgeError) as caught:
        read_config(path)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{path}: ")
    return f"{caught.value.exit_code} {message}"


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("THUDM/chatglm2-6b-32k", "chatglm2-6b-32k"),
        ("C:\\models\\My-ChatGLM2\\", "my-chatglm2"),
        ("glm-edge-demo", "glm-edge-demo"),
        ("/home/me/模型", "模型"),
        (None, "a folder"),
        ("", "a folder"),
        ("../..", "a folder"),
        ("line\nbreak", "a folder"),
    ],
)
def test_the_name(tmp_path: Path, written: str | None, name: str) -> None:
    folder = tmp_path / "A folder"
    folder.mkdir()
    assert read_config(write(folder, _name_or_path=written)).name == name


@pytest.mark.skipif(os.name == "nt", reason="has no such names")
@pytest.mark.parametrize("folder", ["line\nbreak", "\x1b[31m"], ids=["two_lines", "colour"])
def test_a_folder_whose_name_cannot_be_shown_gives_none(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    assert read_config(write(tmp_path / folder, _name_or_path=None)).name == "chatglm2"


def test_an_integer_is_a_number_too(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, rope_ratio=16)).rope_ratio == 16.0


@pytest.mark.case("M18")
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": "llama"}, "a model of type 'llama'"),
        ({"model_type": "glm4"}, "a model of type 'glm4'"),
        ({"_name_or_path": "THUDM/chatglm3-6b"}, "a ChatGLM3"),
        ({"_name_or_path": "D:\\ChatGLM3-6B\\checkpoint-500"}, "a ChatGLM3"),
        ({"_name_or_path": "THUDM/glm-4-9b-chat", "padded_vocab_size": 151552}, "a GLM-4"),
        ({"inner_hidden_size": 16384, "position_encoding_2d": True}, "a ChatGLM-6B, the first generation"),
    ],
    ids=["llama", "glm4", "chatglm3", "chatglm3-path", "glm-4", "chatglm-6b"],
)
def test_another_model_is_called_by_its_name(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    message = refused(write(tmp_path, **changes))
    assert message.startswith("5 ")
    assert what in message
    assert "only ChatGLM2" in message


@pytest.mark.parametrize(
    "settings",
    [
        {"name_or_path": "THUDM/chatglm3-6b"},
        {"added_tokens_decoder": {"64795": {"content": "<|user|>"}}},
        {"chat_template": "{% for m in messages %}<|{{ m['role'] }}|>{% endfor %}"},
    ],
    ids=["name", "tokens", "template"],
)
def test_a_chatglm3_without_a_name_is_known_by_its_tokenizer(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "a ChatGLM3" in refused(write(tmp_path, _name_or_path="./output"))


def test_a_name_with_both_generations_is_not_guessed(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, _name_or_path="/data/not-chatglm3/chatglm2-6b")).name == "chatglm2-6b"


@pytest.mark.case("M18")
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"rmsnorm": False}, "rmsnorm is False and has to be True"),
        ({"add_bias_linear": True}, "add_bias_linear is True and has to be False"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ({"pre_seq_len": 128}, "pre_seq_len is 128"),
        ({"eos_token_id": [2, 3]}, "eos_token_id is a list of 2"),
        ({"eos_token_id": 151329}, "eos_token_id is 151329 and has to be 2"),
        ({"multi_query_group_num": 3}, "multi_query_group_num 3 does not divide num_attention_heads 32"),
        ({"hidden_size": 4095}, "hidden_size 4095 is not num_attention_heads x kv_channels, 32 x 128"),
        ({"kv_channels": 2, "hidden_size": 64}, "kv_channels 2 is not a multiple of 4"),
        ({"quantization_bit": 3}, "quantization_bit is 3 and has to be 0, 4 or 8"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_another_architecture_names_the_key(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    message = refused(write(tmp_path, **changes))
    assert message.startswith("5 ")
    assert what in message


def test_all_differences_are_in_one_message(tmp_path: Path) -> None:
    message = refused(write(tmp_path, rmsnorm=False, add_qkv_bias=False, post_layer_norm=False))
    assert all(key in message for key in ("rmsnorm", "add_qkv_bias", "post_layer_norm"))


@pytest.mark.case("M18")
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": None}, "model_type is None"),
        ({"num_layers": None}, "num_layers is missing"),
        ({"rmsnorm": None}, "rmsnorm is missing"),
        ({"rmsnorm": 1}, "rmsnorm is 1 where true or false"),
        ({"num_layers": "28"}, "num_layers is '28', not an integer"),
        ({"num_layers": 28.0}, "num_layers is 28.0, not an integer"),
        ({"num_layers": True}, "num_layers is True, not an integer"),
        ({"num_layers": 10**9}, "not an integer from 1 to 512"),
        ({"num_layers": 0}, "not an integer from 1 to 512"),
        ({"hidden_size": -4096}, "hidden_size is -4096"),
        ({"kv_channels": 10**30}, "kv_channels is 1000"),
        ({"layernorm_epsilon": 0}, "layernorm_epsilon is 0, not a number from 1e-12 to 0.1"),
        ({"layernorm_epsilon": 1e-320}, "layernorm_epsilon is 1e-320"),
        ({"layernorm_epsilon": "1e-5"}, "layernorm_epsilon is '1e-5'"),
        ({"rope_ratio": -1}, "rope_ratio is -1"),
        ({"rope_ratio": [1]}, "rope_ratio is a list of 1"),
        ({"_name_or_path": 7}, "_name_or_path is 7"),
        ({"quantization_bit": "4"}, "quantization_bit is '4'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_type_or_range_names_the_key(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    message = refused(write(tmp_path, **changes))
    assert message.startswith("3 ")
    assert what in message
    assert len(message) < 400


@pytest.mark.case("M18")
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"{", "not valid JSON"),
        (b"[]", "holds list where an object"),
        (b'{"a": 1, "a": 2}', "the key 'a' twice in one object"),
        (b'{"x": {"b": 1, "b": 1}}', "the key 'b' twice in one object"),
        (b'{"layernorm_epsilon": NaN}', "has NaN, which is not a JSON number"),
        (b'{"a": -Infinity}', "has -Infinity, which is not a JSON number"),
        (b'{"a": 1e999}', "1e999, which is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "an integer of 5000 digits"),
        (b"[" * 100_000, "nested deeper than"),
        (b'{"a": "\xff"}', "is not UTF-8: bad byte at offset 7"),
        (b"\xef\xbb\xbf{}", "a byte order mark"),
        ("{}".encode("utf-16"), "is not UTF-8"),
        (b" " * (5 << 20), "larger than"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run `git lfs pull`"),
        (b"\n<!DOCTYPE html><html>Not found", "an HTML page"),
        (b'{"model_type": "\\u0001\\n' + b"x" * 500 + b'"}', "a model of type '\\x01\\nxxx"),
        (b'{"model_type": "\\ud800"}', "half a surrogate pair"),
    ],
    ids=range(18),
)
def test_json_is_read_strictly(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    assert what in refused(path)


def test_a_missing_file(tmp_path: Path) -> None:
    assert "is missing" in refused(tmp_path / "config.json")


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert "is a folder" in refused(tmp_path / "config.json")


@pytest.mark.case("M7")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert "is a named pipe" in refused(tmp_path / "config.json")


@pytest.mark.case("M7")
@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_device_is_not_read() -> None:
    assert "is a device" in refused(Path("/dev/zero"))


def test_both_errors_are_of_our_tree() -> None:
    assert (InvalidFileError.exit_code, UnsupportedModelError.exit_code) == (3, 5)
