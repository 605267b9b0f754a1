"""What the official code computed, computed by us: token ids, prompts, logits, greedy text, shapes and settings.

The reference data lies outside the project (conftest.py says where); without it, all of these skip. So each test
holds a whole comparison. Everything else in the suite runs on checkpoints of our own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.convert.convert import convert
from glm_edge.convert.source.checkpoint import Checkpoint, open_checkpoint
from glm_edge.convert.source.config import read_config
from glm_edge.convert.source.shard import open_shard
from glm_edge.convert.tokenizer.golden import TEXTS
from glm_edge.convert.tokenizer.protobuf import fields
from glm_edge.convert.tokenizer.tokenizer_model import read_tokenizer_model
from glm_edge.convert.tokenizer.vocab import load_sentencepiece, reachable_texts, read_vocabulary
from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.text.prompt import prompt_text
from glm_edge.engine.text.tokenizer import Tokenizer
from glm_edge.llama.context import Batch, Context
from glm_edge.llama.model import Model
from glm_edge.model.gguf import read_gguf
from glm_edge.types import EngineConfig, Message, Request, RuntimeName, SamplingParams
from support.checkpoints.small_checkpoint import NORMAL
from support.checkpoints.torch_writer import Tensor, write_shard
from support.engines.oracle import Oracle
from support.paths import BENCHMARKS, PROJECT

DEMO = PROJECT / "models" / "demo"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


@pytest.fixture(scope="module")
def tokenizer_model(reference: Path) -> Path:
    return reference / "chatglm2-6b" / "tokenizer.model"


@pytest.fixture(scope="module")
def checkpoints(reference: Path, tokenizer_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny official checkpoints, of float16 and of 4 bits, as complete folders: no links, which are refused."""
    found = {name: tmp_path_factory.mktemp("official") / f"chatglm2-{name}" for name in ("tiny", "tiny-int4")}
    for name, folder in found.items():
        shutil.copytree(reference / name, folder)
        shutil.copyfile(tokenizer_model, folder / "tokenizer.model")
    return found


@pytest.fixture(scope="module")
def files(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Their GGUF files, by name and type."""
    folder = tmp_path_factory.mktemp("gguf")
    return {
        (name, kind): convert(checkpoint, folder / f"{name}-{kind}.gguf", type=kind).path
        for name, checkpoint in checkpoints.items()
        for kind in ("f32", "f16")
    }


def all_rows(checkpoint: Checkpoint, name: str) -> NDArray[np.float32]:
    tensor = checkpoint.tensors[name]
    return tensor.read_rows(0, tensor.shape[0] if len(tensor.shape) == 2 else 1)


def test_tokens_equal_sentencepieces(
    reference: Path, tokenizer_model: Path, files: dict[tuple[str, str], Path], runtime_name: RuntimeName
) -> None:
    vocabulary = read_vocabulary(tokenizer_model, 65024)
    ids = {"[MASK]": 64789, "[gMASK]": 64790, "[sMASK]": 64791, "sop": 64792, "eop": 64793}
    assert vocabulary.special == ids
    reachable = reachable_texts(vocabulary.texts)
    names = zip(vocabulary.texts, vocabulary.types, strict=True)
    assert {text for text, kind in names if kind != NORMAL}.isdisjoint(reachable)
    assert {"sop", "eop"} <= reachable_texts([*vocabulary.texts, "sop", "eop"])  # the defect that the names avoid

    processor = load_sentencepiece(vocabulary)
    model = Model(files["tiny", "f16"], vocab_only=True, runtime_name=runtime_name)
    cases = lines(reference / "tokens.jsonl")
    assert len(cases) >= 1500
    assert [case["text"] for case in cases if model.tokenize(case["text"]) != case["ids"]] == []
    for case in cases:
        decoded = b"".join(model.piece(token) for token in case["ids"]).decode("utf-8", "replace")
        assert decoded.removeprefix(" ") == case["decoded"]
    hostile = ["philosophy", "geopolitics", "[gMASK]sop", "</s>", "<s>", "<unk>", "[MASK]<0x0A>", "eop sop", "▁</s>"]
    for text in [*TEXTS, *hostile]:
        found = model.tokenize(text)
        assert found == processor.encode(text)
        assert all(3 <= token < 64789 for token in found)
    model.close()


def test_prompts_equal_the_official_ones(
    reference: Path, files: dict[tuple[str, str], Path], runtime_name: RuntimeName
) -> None:
    """Ours, and those of a program that renders the embedded template and then parses special tokens."""
    file = read_gguf(files["tiny", "f16"])
    model = Model(files["tiny", "f16"], vocab_only=True, runtime_name=runtime_name)
    tokenizer, template = Tokenizer(model, file), str(file.metadata["tokenizer.chat_template"])
    strict = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as in transformers
    templates = [environment.from_string(template) for environment in (jinja2.Environment(), strict)]
    cases = lines(reference / "prompts.jsonl")
    assert len(cases) == 60
    for case in cases:
        assert prompt_text([tuple(pair) for pair in case["history"]], case["query"]) == case["prompt"]
        messages = []
        for question, answer in case["history"]:
            messages += [Message("user", question), Message("assistant", answer)]
        messages.append(Message("user", case["query"]))
        prompt = tokenizer.prompt(messages)
        assert (prompt.text, prompt.ids) == (case["prompt"], case["ids"])
        wanted = [{"role": message.role, "content": message.content} for message in messages]
        for one in templates:
            assert one.render(messages=wanted, add_generation_prompt=True) == "[gMASK]<sop>" + case["prompt"]
    model.close()


def test_the_oracle_has_the_official_logits_and_greedy_text(reference: Path, checkpoints: dict[str, Path]) -> None:
    expected, oracle = np.load(reference / "tiny" / "reference.npz"), Oracle(checkpoints["tiny"])
    for prompt in range(3):
        ids = expected[f"ids_{prompt}"].tolist()
        logits = oracle.logits(ids, oracle.cache())
        assert logits.argmax(axis=1).tolist() == expected[f"argmax_{prompt}"].tolist()
        assert np.abs(logits[-1] - expected[f"last_logits_{prompt}"]).max() < 1e-4
        assert oracle.greedy(ids, 24) == expected[f"greedy_{prompt}"].tolist()


def test_logits_and_greedy_text_of_every_file(
    reference: Path, files: dict[tuple[str, str], Path], runtime_name: RuntimeName
) -> None:
    for (name, kind), path in files.items():
        expected, model = np.load(reference / name / "reference.npz"), Model(path, runtime_name=runtime_name)
        sizes: dict[str, Any] = {"n_ctx": 512, "n_batch": 64, "n_sequences": 1, "n_outputs": 64}
        kv_type: Any = kind if runtime_name == "llama" else "f16"  # ik_llama.cpp has no other
        context = Context(model, **sizes, n_threads=1, n_threads_batch=1, kv_type=kv_type)
        for prompt in range(3):
            ids = expected[f"ids_{prompt}"].tolist()
            rows = decoded(context, ids, 0)
            assert rows.argmax(axis=1).tolist() == expected[f"argmax_{prompt}"].tolist()
            bound = 1e-4 if kv_type == "f32" else 1e-2
            assert np.abs(rows[-1] - expected[f"last_logits_{prompt}"]).max() < bound, (name, kind)
            greedy = [int(rows[-1].argmax())]
            while len(greedy) < 24:
                greedy.append(int(decoded(context, greedy[-1:], len(ids) + len(greedy) - 1)[-1].argmax()))
            assert greedy == expected[f"greedy_{prompt}"].tolist()
            context.remove(0)
        context.close()
        model.close()


def decoded(context: Context, ids: list[int], start: int) -> NDArray[np.float32]:
    """(len(ids), vocabulary): the logits of these ids at the positions from `start` on."""
    batch = Batch(64)
    rows = [batch.add(token, start + n, 0, logits=True) for n, token in enumerate(ids)]
    assert context.decode(batch) == "done"
    return np.stack([context.logits(row) for row in rows])


CONVERSATIONS = [
    ["你好"],
    ["晚上睡不着应该怎么办", "听音乐", "What is philosophy?"],
    ["a", "b", "c", "d", "写一首关于春天的诗。"],
]


def test_the_engine_writes_the_official_greedy_answers(
    reference: Path, files: dict[tuple[str, str], Path], runtime_name: RuntimeName
) -> None:
    """Through prompt, tokenizer, scheduler, sampler and clean-up: the whole way of a request."""
    expected = np.load(reference / "tiny" / "reference.npz")
    path = files["tiny", "f32"]
    model = Model(path, vocab_only=True, runtime_name=runtime_name)
    kv_type: Any = "f32" if runtime_name == "llama" else "f16"
    engine = LlamaEngine(EngineConfig(path, kv_type=kv_type, n_threads=1, runtime=runtime_name))
    for j, texts in enumerate(CONVERSATIONS):
        messages = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
        request = Request(tuple(messages), SamplingParams(temperature=0), max_tokens=24)
        answer = "".join(chunk.text for chunk in engine.submit(request))
        greedy = b"".join(model.piece(token) for token in expected[f"greedy_{j}"].tolist())
        assert answer == greedy.decode("utf-8", "replace").strip()
    engine.close()
    model.close()


# Fields of sentencepiece's TrainerSpec and NormalizerSpec with what they are where a file leaves them out, by message.
SETTINGS: dict[int, dict[int, int | bytes]] = {
    2: {3: 1, 20: 16, 21: 1, 22: 1, 23: 1, 24: 0, 25: 0, 26: 0, 35: 0, 40: 0, 41: 1, 42: 2, 43: 2**64 - 1},
    3: {1: b"", 2: b"", 3: 1, 4: 1},
}


def tokenizer_settings(path: Path) -> list[dict[int, Any]]:
    messages = {number: value for number, _, value in fields(path.read_bytes()) if number in SETTINGS}
    stored = {message: {number: value for number, _, value in fields(messages[message])} for message in SETTINGS}
    return [{n: stored[message].get(n, default) for n, default in table.items()} for message, table in SETTINGS.items()]


def test_configs_shards_and_settings_are_the_real_ones(reference: Path, tokenizer_model: Path) -> None:
    """Of the benchmarks' full-size checkpoint and of the demo, and read as what they are."""
    real = reference / "chatglm2-6b"
    config = read_config(real / "config.json")
    assert (config.name, config.hidden_size, config.num_layers) == ("chatglm2-6b", 4096, 28)
    assert (config.num_attention_heads, config.kv_channels, config.multi_query_group_num) == (32, 128, 2)
    assert (config.ffn_hidden_size, config.padded_vocab_size, config.seq_length) == (13696, 65024, 32768)
    assert (config.layernorm_epsilon, config.rope_ratio, config.quantization_bit) == (1e-5, 1.0, 0)

    stored, index = (
        json.loads((real / name).read_text("utf-8")) for name in ("config.json", "pytorch_model.bin.index.json")
    )
    code = """import json; from checkpoint_shapes import *
shards = [[w.name for w in shard] for shard in split(weights(FULL), 2, None)]
print(json.dumps([shards, sum(prod(w.shape) for w in weights(FULL)) * 2, config(FULL, "f16")]))"""
    made = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    shards, total, full_config = json.loads(made.stdout)
    names = [f"pytorch_model-{i + 1:05}-of-{len(shards):05}.bin" for i in range(len(shards))]
    assert {w: name for name, shard in zip(names, shards, strict=True) for w in shard} == index["weight_map"]
    assert (total, full_config) == (index["metadata"]["total_size"], stored)

    demo = json.loads((DEMO / "config.json").read_text("utf-8"))
    sizes = {"_name_or_path", "ffn_hidden_size", "hidden_size", "kv_channels", "num_attention_heads", "num_layers"}
    assert list(demo) == list(stored)
    assert {key for key in stored if demo[key] != stored[key]} == sizes | {"padded_vocab_size", "seq_length"}
    assert tokenizer_settings(DEMO / "tokenizer.model") == tokenizer_settings(tokenizer_model)
    ours, theirs = read_tokenizer_model(DEMO / "tokenizer.model"), read_tokenizer_model(tokenizer_model)
    assert ours.texts[:259] == theirs.texts[:259]  # <unk>, <s>, </s> and the 256 bytes
    assert ours.types[:259] == theirs.types[:259]


def test_a_shard_that_is_written_again_has_the_same_bytes(reference: Path, tmp_path: Path) -> None:
    """By the writer of the tests' checkpoints, so that what they show holds for files of torch."""
    source = reference / "tiny" / "pytorch_model-00002-of-00003.bin"
    with zipfile.ZipFile(source) as archive:
        content = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    tensors = [
        Tensor(name, tensor.shape, "f16", [content[f"data/{key}"]])
        for key, (name, tensor) in enumerate(open_shard(source).items())
    ]
    write_shard(tmp_path / source.name, tensors, serialization_id=content[".data/serialization_id"])
    assert (tmp_path / source.name).read_bytes() == source.read_bytes()


def test_the_int4_checkpoint_is_near_the_floats_it_was_made_of(checkpoints: dict[str, Path]) -> None:
    floats, integers = (open_checkpoint(checkpoints[name]) for name in ("tiny", "tiny-int4"))
    assert (floats.config.quantization_bit, integers.config.quantization_bit) == (0, 4)
    assert [len(checkpoint.files) for checkpoint in (floats, integers)] == [6, 3]  # three shards and an index; one file
    stored = open_shard(checkpoints["tiny-int4"] / "pytorch_model.bin")
    name = "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight"
    assert (stored[name].dtype, stored[name].shape) == ("i8", (448, 32))
    assert (stored[f"{name}_scale"].dtype, stored[f"{name}_scale"].shape) == ("f16", (448,))
    assert set(floats.tensors) == set(integers.tensors)
    for name in floats.tensors:
        wanted, found = all_rows(floats, name), all_rows(integers, name)
        # Half a step of 15 over the range of a row, where the weights are quantized at all
        quantized = ".layers." in name and len(floats.tensors[name].shape) == 2
        step = np.abs(wanted).max(axis=1, keepdims=True) / 7 if quantized else 0
        assert (np.abs(found - wanted) <= 0.51 * step + 1e-6).all(), name
