"""A ChatGLM2 checkpoint with the real vocabulary's size and tiny weights: what engine, worker and API are tested on.

65,024 tokens: 64,789 pieces, then special tokens and padding, as the real tokenizer.model has them. So ids, masks and
logits have their real sizes. Hidden 64, 2 layers, random weights: the text is noise, and a token takes a millisecond.
The pieces come from the demo's text (words, pairs of Chinese characters) and from Unicode. Every machine gets the same.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.checkpoints.small_checkpoint import BYTES, CONFIG, FIRST, NORMAL, Piece, shapes, tokenizer_proto
from support.checkpoints.torch_writer import write_shard
from support.paths import PROJECT

LARGE_CONFIG: dict[str, Any] = CONFIG | {
    "_name_or_path": "THUDM/chatglm2-tiny",
    "ffn_hidden_size": 224,
    "hidden_size": 64,
    "kv_channels": 16,
    "padded_vocab_size": 65024,
    "seq_length": 2048,
}
PIECE_COUNT = 64_789  # [MASK], [gMASK], [sMASK], sop and eop follow
CHINESE = [chr(code) for code in range(0x4E00, 0x9FA6)]
OTHER_CHARACTERS = [*map(chr, [*range(0x21, 0x7F), *range(0xA1, 0x250), *range(0x391, 0x450), *range(0x3001, 0x3100)])]
FULL_WIDTH = [chr(code) for code in range(0xFF01, 0xFF5F)]
TEXTS = ["[Round 1]", "[gMASK]sop</s>"]  # words of the prompt's frame, and parts of special tokens' names


def merges() -> Iterator[str]:
    """Pieces of two and more characters, the most frequent first; without an end, for as many as there is space for."""
    folder = PROJECT / "models" / "demo" / "text"
    taught = [path for path in sorted(folder.glob("*.txt")) if path.name != "heldout.txt"]
    text = "\n".join([*TEXTS * 1000, *(path.read_text("utf-8") for path in taught)])
    words = Counter(match[0].replace(" ", "▁") for match in re.finditer(r" ?[A-Za-z]+", text))
    for word, _ in words.most_common():
        yield from (word[:length] for length in range(2, len(word) + 1))  # each prefix merges with one more letter
    yield from ("▁▁", "▁▁▁▁")
    characters = re.findall("[\u4e00-\u9fa5]+", text)
    pairs = Counter(run[i : i + 2] for run in characters for i in range(len(run) - 1))
    yield from (pair for pair, _ in pairs.most_common())
    frequent = [character for character, _ in Counter("".join(characters)).most_common(300)]
    yield from (a + b for a, b in product(frequent, frequent) if a != b)


@cache
def large_pieces() -> list[Piece]:
    """All 64,789 pieces: the control pieces, the 256 bytes, and normal ones, those that merge first in front."""
    single = ["▁", *OTHER_CHARACTERS, *CHINESE, *FULL_WIDTH]
    first = [*FIRST, *BYTES]
    space = PIECE_COUNT - len(first) - len(single)
    found = dict.fromkeys(merges())
    return [*first, *((text, NORMAL) for text in [*islice(found, space), *single])]


def large_weights() -> dict[str, NDArray[Any]]:
    """float16 weights that give peaked and varied logits: norms near one, rows of about unit length."""
    draw = np.random.default_rng(11)
    found: dict[str, NDArray[Any]] = {}
    for name, shape in shapes(LARGE_CONFIG).items():
        values = draw.standard_normal(shape, np.float32)
        if name.endswith("norm.weight"):
            values = 1 + 0.1 * values
        elif name.endswith(".bias"):
            values *= 0.1
        elif name.endswith("inv_freq"):
            values = (10000.0 ** -(np.arange(shape[0]) / shape[0])).astype(np.float32)
        else:
            values *= 1.3 / np.sqrt(shape[1])
        found[name] = values.astype(np.float16)
    return found


def write_large_checkpoint(folder: Path, shards: int = 3) -> Path:
    """Write the checkpoint in `shards` files of the official format into a new folder and return the folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LARGE_CONFIG), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ChatGLMTokenizer"}), "utf-8")
    (folder / "tokenizer.model").write_bytes(tokenizer_proto(large_pieces()))
    weights = large_weights()
    names = list(weights)
    where: dict[str, str] = {}
    for n in range(shards):
        shard = f"pytorch_model-{n + 1:05}-of-{shards:05}.bin"
        part = names[n * len(names) // shards : (n + 1) * len(names) // shards]
        where |= dict.fromkeys(part, shard)
        write_shard(folder / shard, {name: weights[name] for name in part})
    index: Mapping[str, Any] = {
        "metadata": {"total_size": sum(values.nbytes for values in weights.values())},
        "weight_map": where,
    }
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), "utf-8")
    return folder
