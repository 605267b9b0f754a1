"""Damages files of every format, case after case, and measures what comes of it: our error, soon, in little memory.

    python tests/benchmarks/fuzz.py                                 # 10,000 cases: four minutes
    python tests/benchmarks/fuzz.py --cases 50 --formats zip gguf   # some formats, cases 0 to 49 of each
    python tests/benchmarks/fuzz.py --formats zip --first 17 --cases 1   # one case again

A case is one file damaged by the random numbers of seed, format and number, and a process of its own that does all that
the command would: a whole conversion that is read back (a file that comes out must pass the check that `serve` makes),
or the check of a GGUF file and, where that passes, llama.cpp loading it and computing three tokens. "refused" ended
with an error of GLM Edge in one line, "accepted" with none. Everything else is a failure: another exception, a
crash, 2 seconds of processor time, 512 MB resident (Python and all libraries included), or more than 512 MB mapped
over what the process began with, which RLIMIT_AS refuses. Exit code 1 when there is one. Linux and macOS.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # no threads at the time of a fork
sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np

from glm_edge.convert.convert import convert
from glm_edge.engine.text.tokenizer import Tokenizer
from glm_edge.errors import GlmEdgeError, OutOfMemoryError
from glm_edge.llama.context import Batch, Context
from glm_edge.llama.model import Model
from glm_edge.model.checks import check_model
from glm_edge.model.gguf import read_gguf
from glm_edge.tools.verify import verify
from support.checkpoints.file_mutations import change_values, damage, mutate
from support.checkpoints.safetensors_writer import write_safetensors
from support.checkpoints.small_checkpoint import CONFIG, random_weights, write_checkpoint
from support.checkpoints.torch_writer import Member, state_dict_pickle, write_archive, write_shard

SECONDS, MEGABYTES = 2.0, 512
HANG = 60  # seconds of wall time
TINY = CONFIG | {"hidden_size": 64, "kv_channels": 16, "ffn_hidden_size": 96, "num_layers": 1}
TINY = TINY | {"padded_vocab_size": 384, "seq_length": 128}
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["dense"], "bias": "none"}
DENSE = "transformer.encoder.layers.0.self_attention.dense"
BIN, SAFETENSORS = "pytorch_model.bin", "model-00001-of-00002.safetensors"


class Format(NamedTuple):
    """What is damaged, how, and what then reads it; the last two take the folder and the damaged file."""

    file: str  # in the folder of all files
    damaged: Callable[[bytes, random.Random], bytes]
    attempt: Callable[[Path, Path], object]


@dataclass
class Outcome:
    """Of all cases of a format."""

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0  # seconds of processor time
    peak: float = 0.0  # MB
    failures: list[str] = field(default_factory=list)


def write_files(folder: Path) -> None:
    """One file set for every format, all of the same tiny model."""
    weights: dict[str, Any] = random_weights(TINY)
    write_checkpoint(folder / "bin", config=TINY, weights=weights)
    int4 = dict(weights)
    for name in [name for name, value in weights.items() if ".layers." in name and value.ndim == 2]:
        rows, columns = weights[name].shape
        int4[name], int4[f"{name}_scale"] = np.ones((rows, columns // 2), np.int8), np.ones(rows, np.float16)
    write_checkpoint(folder / "int4", config=TINY | {"quantization_bit": 4}, weights=int4)
    names = list(weights)
    parts = [{name: weights[name] for name in names[:4]}, {name: weights[name] for name in names[4:]}]
    for kind, single, write in (("sharded", "pytorch_model", write_shard), ("split", "model", write_safetensors)):
        write_checkpoint(folder / kind, config=TINY, weights=weights)
        (folder / kind / BIN).unlink()
        end, where = "bin" if kind == "sharded" else "safetensors", {}
        for number, part in enumerate(parts, 1):
            shard = f"{single}-0000{number}-of-00002.{end}"
            write(folder / kind / shard, part)  # type: ignore[operator]
            where |= dict.fromkeys(part, shard)
        total = sum(value.nbytes for value in weights.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / kind / f"{single}.{end}.index.json").write_text(json.dumps(index))
    (folder / "lora").mkdir()
    (folder / "lora/adapter_config.json").write_text(json.dumps(LORA))
    lora = {"A": np.ones((2, 64), np.float32), "B": np.full((64, 2), 0.01, np.float32)}
    pairs = {f"base_model.model.{DENSE}.lora_{part}.weight": value for part, value in lora.items()}
    write_safetensors(folder / "lora/adapter_model.safetensors", pairs)
    convert(folder / "bin", folder / "model.gguf", type="q4_0", threads=1)


def json_text(content: bytes, draw: random.Random) -> bytes:
    return change_values(content, draw) if draw.random() < 0.6 else damage(content, draw)


def text_or_numbers(content: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.5:
        return damage(content, draw)
    return mutate(content, [range(len(content))], draw)


def safetensors(content: bytes, draw: random.Random) -> bytes:
    """The header damaged; mostly with its length put right, so that more gets past the first check."""
    (length,) = struct.unpack_from("<Q", content)
    if draw.random() < 0.5:
        header = content[:8] + change_values(content[8 : 8 + length], draw)
    else:
        header = text_or_numbers(content[: 8 + length], draw)
    if draw.random() < 0.9:
        header = struct.pack("<Q", max(0, len(header) - 8)) + header[8:]
    return header + content[8 + length :]


def zipped(content: bytes, draw: random.Random) -> bytes:
    """Damage to headers and directory; to the tensors in one of twenty cases."""
    directory = content.index(b"PK\1\2")
    spans = [range(directory, len(content)), range(max(0, directory - 600), directory), range(1500)]
    spans += [range(len(content) - 98, len(content))]  # the end records
    return mutate(content, [range(len(content))] if draw.random() < 0.05 else spans, draw)


def pickled(content: bytes, draw: random.Random) -> bytes:
    """The pickle damaged in a shard whose zip is right: its bytes, size and checksum agree. `content`: the shard."""
    weights = random_weights(TINY)
    known = state_dict_pickle((name, value.shape, "f16") for name, value in weights.items())
    broken = mutate(known, [range(len(known))], draw) if draw.random() < 0.5 else damage(known, draw)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / BIN
        data = [Member(f"data/{key}", value.nbytes, [value]) for key, value in enumerate(weights.values())]
        write_archive(path, [Member("data.pkl", len(broken), [broken]), *data])
        return path.read_bytes()


def model_file(content: bytes, draw: random.Random) -> bytes:
    """Damage to a head, most of it outside of the vocabulary, which takes most of it."""
    tokens = content.index(b"tokenizer.ggml.tokens")
    after = content.index(b"tokenizer.ggml.", content.index(b"tokenizer.ggml.token_type") + 20)
    table = content.index(b"output.weight")
    return mutate(content, [range(tokens), range(after, table + 40), range(tokens, after)], draw)


def converts(checkpoint: str, lora: str | None = None) -> Callable[[Path, Path], object]:
    def attempt(folder: Path, _: Path) -> None:
        out = folder / "out" / "x.gguf"
        convert(folder / checkpoint, out, threads=1, lora=folder / lora if lora else None, type="q4_0", force=True)
        try:
            check_model(read_gguf(out))
        except GlmEdgeError as error:
            raise RuntimeError(f"a file was made that is refused: {error}") from error

    return attempt


def runs(_: Path, file: Path) -> None:
    head = read_gguf(file)
    check_model(head)
    model = Model(file, repack=False)
    Tokenizer(model, head)
    context = Context(model, n_ctx=64, n_batch=8, n_sequences=1, n_outputs=1, n_threads=1, n_threads_batch=1)
    batch = Batch(8)
    for position in range(3):
        batch.add(position, position, 0, logits=position == 2)
    context.decode(batch)


FORMATS = {
    "zip": Format(f"bin/{BIN}", zipped, converts("bin")),
    "pickle": Format(f"bin/{BIN}", pickled, converts("bin")),
    "int4 zip": Format(f"int4/{BIN}", zipped, converts("int4")),
    "safetensors": Format(f"split/{SAFETENSORS}", safetensors, converts("split")),
    "index.json": Format("sharded/pytorch_model.bin.index.json", json_text, converts("sharded")),
    "config.json": Format("bin/config.json", json_text, converts("bin")),
    "tokenizer.model": Format("bin/tokenizer.model", text_or_numbers, converts("bin")),
    "lora config": Format("lora/adapter_config.json", json_text, converts("bin", "lora")),
    "lora safetensors": Format("lora/adapter_model.safetensors", safetensors, converts("bin", "lora")),
    "gguf": Format("model.gguf", model_file, runs),
    "gguf verify": Format("model.gguf", text_or_numbers, lambda _, file: verify(file)),
}


def limit_memory() -> None:
    with contextlib.suppress(OSError):  # not on macOS, where the peak alone is compared
        mapped = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + (MEGABYTES << 20), resource.RLIM_INFINITY))


def child(attempt: Callable[[Path, Path], object], folder: Path, file: Path, said: int) -> None:
    """Never returns: exits with 0 (accepted), 1 (refused) or 2 and what was wrong in the pipe `said`."""
    code, text = 0, ""
    signal.alarm(HANG)
    try:
        limit_memory()
        attempt(folder, file)
    except OutOfMemoryError as error:
        code, text = 2, f"needs too much memory: {error}"
    except GlmEdgeError as error:
        message = str(error)
        code, text = (1, "") if message.isprintable() else (2, f"a message of several lines: {message!r}")
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        code, text = 2, f"{error!r} at {Path(last.filename).name}:{last.lineno}"
    os.write(said, text.encode("utf-8", "replace")[:4000])
    os._exit(code)


def run_case(form: Format, folder: Path, content: bytes, outcome: Outcome) -> str:
    """Run one case and count it; returns what was wrong with it."""
    file = folder / form.file
    file.write_bytes(content)
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        child(form.attempt, folder, file, writing)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as pipe:
        said = pipe.read()
    _, status, usage = os.wait4(pid, 0)
    seconds = usage.ru_utime + usage.ru_stime
    megabytes = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    outcome.cases += 1
    outcome.slowest, outcome.peak = max(outcome.slowest, seconds), max(outcome.peak, megabytes)
    code = os.waitstatus_to_exitcode(status)
    outcome.accepted += code == 0
    outcome.refused += code == 1
    if code < 0:
        return f"ended by signal {-code} {said}"
    if seconds > SECONDS or megabytes > MEGABYTES:
        return f"took {seconds:.1f} s of processor time and {megabytes:.0f} MB {said}"
    return said


def run_format(name: str, folder: Path, cases: range, seed: int) -> Outcome:
    form, outcome = FORMATS[name], Outcome()
    sound = (folder / form.file).read_bytes()
    try:
        if wrong := run_case(form, folder, sound, Outcome()):
            raise SystemExit(f"{name}: the file is refused before it is damaged: {wrong}")
        for number in cases:
            content = form.damaged(sound, random.Random(f"{seed}/{name}/{number}"))
            if wrong := run_case(form, folder, content, outcome):
                outcome.failures.append(f"{name} {number}: {wrong}")
                print(f"failed: {outcome.failures[-1]}", file=sys.stderr, flush=True)
    finally:
        (folder / form.file).write_bytes(sound)
    return outcome


def show(outcomes: dict[str, Outcome]) -> None:
    total = Outcome()
    print(f"{'format':<17} {'cases':>6} {'accepted':>9} {'refused':>8} {'failed':>7} {'slowest s':>10} {'peak MB':>8}")
    for name, one in [*outcomes.items(), ("all", total)]:
        counts = f"{one.cases:>6} {one.accepted:>9} {one.refused:>8} {len(one.failures):>7}"
        print(f"{name:<17} {counts} {one.slowest:>10.2f} {one.peak:>8.0f}")
        total.cases, total.accepted = total.cases + one.cases, total.accepted + one.accepted
        total.refused, total.failures = total.refused + one.refused, [*total.failures, *one.failures]
        total.slowest, total.peak = max(total.slowest, one.slowest), max(total.peak, one.peak)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz every format that GLM Edge reads.")
    parser.add_argument("--cases", type=int, default=910, help="of each format (910: 10,000 in all)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        write_files(folder)
        (folder / "out").mkdir()
        cases = range(options.first, options.first + options.cases)
        outcomes = {form: run_format(form, folder, cases, options.seed) for form in options.formats}
    show(outcomes)
    facts = {"machine": platform.machine(), "python": platform.python_version(), "seed": options.seed}
    facts |= {"first": options.first, "seconds": round(time.monotonic() - began)}
    print(json.dumps(facts | {"formats": {form: asdict(outcome) for form, outcome in outcomes.items()}}))
    return int(any(outcome.failures for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
