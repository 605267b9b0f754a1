"""Seeded damage to what a checkpoint's files say of themselves: our errors only, soon, and in little memory."""

import json
import random
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

from glm_edge.convert.source.checkpoint import open_checkpoint
from glm_edge.convert.source.lora import merge_lora
from glm_edge.convert.source.safetensors import open_safetensors
from glm_edge.convert.tensors import map_tensors
from glm_edge.errors import GlmEdgeError
from support.checkpoints.derived_checkpoints import CONFIG, lora_weights, quantized, write_lora
from support.checkpoints.file_mutations import damage
from support.checkpoints.safetensors_writer import write_safetensors
from support.checkpoints.small_checkpoint import write_checkpoint

SECONDS, MEGABYTES = 10.0, 512  # of processor time, measuring of coverage included; what is not refused takes minutes


def peak() -> float:
    """The most memory that this process has had, in MB; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def survives(attempt: Callable[[], object], what: str) -> bool:
    """Whether the attempt works; an error of another tree than ours, or one too late, fails the test."""
    started, message = time.process_time(), ""
    try:
        attempt()
    except GlmEdgeError as error:
        message = str(error)
    assert time.process_time() - started < SECONDS, what
    assert message.isprintable(), what
    return not message


@pytest.fixture(autouse=True)
def little_memory() -> Any:
    before = peak()
    yield
    assert peak() - before < MEGABYTES


@pytest.mark.case("M21")
@pytest.mark.parametrize("seed", range(4))
def test_safetensors_headers(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(
        path, {"a": np.ones((3, 4), np.float16), "b": np.ones((2, 2), np.float32), "c": np.ones(5, np.int8)}
    )
    content = path.read_bytes()
    draw = random.Random(seed)
    taken = 0
    for n in range(600):
        data = damage(content, draw, draw.choice([0, 8]))
        if draw.random() < 0.5:  # the length told of the header is right: more gets past the first check
            data = struct.pack("<Q", max(0, len(data) - 45)) + data[8:]
        path.write_bytes(data)
        if survives(lambda: [t.read_raw(0, t.rows) for t in open_safetensors(path).values()], f"{seed}.{n}"):
            taken += 1
            with safetensors.safe_open(path, "numpy"):  # whatever we take, the format's own library takes
                pass
    assert 0 < taken < 300


LARGE = {
    "many_tensors": b"{%s}" % b",".join(
        b'"%d":{"dtype":"I8","shape":[1],"data_offsets":[%d,%d]}' % (n, n, n + 1) for n in range(30_000)
    ),
    "many_bad_tensors": b"{%s}" % b",".join(b'"%d":{}' % n for n in range(170_000)),
    "many_lists": b'{"a":[%s]}' % b",".join([b"[]"] * 690_000),
    "many_dimensions": b'{"a":{"dtype":"I8","shape":[%s],"data_offsets":[0,9]}}' % b",".join([b"9" * 18] * 108_000),
    "long_number": b'{"a":{"dtype":"I8","shape":[%s],"data_offsets":[0,9]}}' % (b"9" * 2_000_000),
    "long_name": b'{"%s":{"dtype":"I8","shape":[9],"data_offsets":[0,9]}}' % (b"n" * 2_000_000),
}  # fmt: skip


@pytest.mark.case("M21")
@pytest.mark.parametrize("name", LARGE)
def test_safetensors_headers_made_to_take_time_or_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(LARGE[name])) + LARGE[name] + bytes(30_000))
    assert survives(lambda: open_safetensors(path), name) == (name == "many_tensors")


@pytest.mark.case("M21")
@pytest.mark.parametrize("seed", range(2))
def test_adapter_configs(small_checkpoint: Path, tmp_path: Path, seed: int) -> None:
    source = open_checkpoint(small_checkpoint)
    lora = write_lora(
        tmp_path / "lora", lora_weights(["query_key_value"]), CONFIG | {"target_modules": ["query_key_value"]}
    )
    content = (lora / "adapter_config.json").read_bytes()
    draw = random.Random(seed)
    taken = sum(
        (lora / "adapter_config.json").write_bytes(damage(content, draw)) > 0
        and survives(lambda: merge_lora(source, lora), f"{seed}.{n}")
        for n in range(400)
    )
    assert 0 < taken < 200


@pytest.mark.case("M21")
def test_values_of_adapter_configs(small_checkpoint: Path, tmp_path: Path) -> None:
    source = open_checkpoint(small_checkpoint)
    lora = write_lora(tmp_path / "lora", lora_weights())
    draw = random.Random(7)
    values: list[Any] = [
        None,
        True,
        False,
        0,
        -1,
        4,
        10**400,
        0.5,
        1e308,
        "",
        "none",
        "LORA",
        [],
        [[]],
        {},
        {"a": 1},
        "x" * 999,
    ]
    for n in range(600):
        changes = {draw.choice([*CONFIG, "x\ny"]): draw.choice(values) for _ in range(draw.randint(1, 3))}
        (lora / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
        survives(lambda: merge_lora(source, lora), f"{n}: {changes}")


@pytest.mark.case("M21")
def test_quantized_weights_and_scales(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "pytorch_model.bin").unlink()
    config = json.loads((folder / "config.json").read_text())
    weights = quantized(4)
    names = [name for name in weights if ".layers." in name]
    shapes = [(), (1,), (0,), (256,), (256, 0), (0, 128), (256, 1), (256, 128), (2, 2, 2), (512,), (1, 256)]
    draw = random.Random(3)
    for n in range(200):
        changed = dict(weights)
        for _ in range(draw.randint(1, 2)):
            name = draw.choice(names)
            if draw.random() < 0.3:
                changed.pop(name, None)
            else:
                value = np.ones(draw.choice(shapes), draw.choice([np.float16, np.float32, np.int8, np.int64]))
                changed[draw.choice([name, f"{name}_scale", f"{name}_scale_scale"])] = value
        write_safetensors(folder / "model.safetensors", changed)
        (folder / "config.json").write_text(json.dumps(config | {"quantization_bit": draw.choice([0, 4, 8])}))

        def attempt() -> None:
            source = open_checkpoint(folder)
            for tensor in map_tensors(source.config, source.tensors, folder):
                tensor.source.read_rows(0, tensor.rows)

        survives(attempt, str(n))
