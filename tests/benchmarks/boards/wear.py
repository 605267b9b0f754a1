"""What an hour of chatting writes to the disk, with the cache of prefixes and without it: an SD card wears out.

    python tests/benchmarks/boards/wear.py MODEL.gguf            # ChatGLM2-6B's own file, or one with fewer layers

60 rounds are an hour of someone who reads and types while 2 threads write 3 tokens a second. Bytes are the
kernel's account of what this process had written, on the file system of --folder. A state grows with the model's
layers, so the figures of a model with fewer are scaled up. Prints one line a way, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from tqdm import tqdm

from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.memory_plan import weights_of
from glm_edge.model.gguf import read_gguf
from glm_edge.types import EngineConfig, Message, Request, SamplingParams

LAYERS = 28  # ChatGLM2-6B's


def written() -> int:
    """Bytes that this process has had written to a disk, those taken back before they got there left out."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["write_bytes"]) - int(lines["cancelled_write_bytes"])


def chat(model: Path, cache: Path | None, options: argparse.Namespace) -> tuple[int, int]:
    """(bytes written, tokens computed) of the hour's rounds."""
    engine = LlamaEngine(EngineConfig(model, n_ctx=options.ctx, cache_folder=cache))
    before, computed = written(), 0
    messages: list[Message] = []
    for round_ in tqdm(range(options.rounds), "with the cache" if cache else "without it", disable=None):
        if round_ % options.conversation == 0:
            messages = []
        text = "".join(chr(0x4E00 + (number * 37 + round_ * 1111) % 8000) for number in range(options.question))
        messages.append(Message("user", text))
        answer = ""
        for chunk in engine.submit(Request(tuple(messages), SamplingParams(seed=round_), options.answer, trim=True)):
            answer += chunk.text
        messages.append(Message("assistant", answer))
        computed += chunk.stats.prompt_tokens - chunk.stats.cached_tokens + chunk.stats.completion_tokens
    engine.close()
    return written() - before, computed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=60, help="of the hour; default 60")
    parser.add_argument("--conversation", type=int, default=20, help="rounds of one conversation; default 20")
    parser.add_argument("--question", type=int, default=30, help="characters; default 30")
    parser.add_argument("--answer", type=int, default=160, help="tokens; default 160")
    parser.add_argument("--ctx", type=int, default=8192, help="tokens; default 8192")
    parser.add_argument("--folder", type=Path, help="where the cache is; on a disk. Default: the temporary folder")
    options = parser.parse_args()
    scale = LAYERS / weights_of(read_gguf(options.model)).sizes.layers
    found = {}
    for name in ("cache", "no cache"):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            size, tokens = chat(options.model, Path(folder) / "prefixes" if name == "cache" else None, options)
        found[name] = {"bytes": round(size * scale), "tokens": tokens}
        print(f"{name:<10}{size * scale / 1e6:>9.1f} MB an hour, {tokens} tokens computed")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
