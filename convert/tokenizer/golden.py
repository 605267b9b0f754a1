"""The golden texts: their token ids are in the GGUF file, so that the engine can check its tokenizer when it loads.

SentencePiece makes the ids. The texts have what tokenizers often get wrong: white space, byte fallback, mixed scripts,
digits, and texts that look like special tokens.
"""

from __future__ import annotations

from typing import Any

TEXTS = (
    "",
    " ",
    "   ",
    "\n",
    "\t\tx\r\n",
    "a",
    "你好",
    "Hello, world!",
    " leading and trailing ",
    "two  spaces,   three",
    "philosophy",
    "geopolitics",
    "sop eop soprano people",
    "[gMASK]sop",
    "[MASK][sMASK]<sop><eop>",
    "<s>",
    "</s>",
    "<unk>",
    "<0x0A>",
    "[PAD64800]",
    "<|user|>\n<|im_end|>",
    "[Round 1]\n\n问：",
    "[Round 12]\n\n问：你是谁？\n\n答：",
    "[[训练时间]]",
    "ChatGLM2-6B 是开源中英双语对话模型的第二代版本。",
    "我今年28岁，3.14159，1,000,000 元，２０２３年",
    "0123456789 007 1e-5 0xFF",
    "def f(x):\n    return [i ** 2 for i in x if i != 0]\n",
    '{"key": "值", "n": [1, 2.5, null]}',
    "E = mc², ∑_{i=0}^{n} α·β ≤ ∞",
    "emoji 😀👍🏽👨‍👩‍👧‍👦 🇨🇳",
    "naïve café — “quotes” … ‘single’",
    "Привет, мир! こんにちは 안녕하세요 שלום مرحبا",
    "龘靐齉爨 𠮷野家",
    "\u200b\ufeff\u00a0\u3000",
    "▁ ▁▁under▁score",
    "\x00\x01\x7f",
    "a\u0301 é ﬁ ㎏ Ⅳ",
    "https://example.org/a?b=c&d=%E4%BD%A0",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "！？。，、；：（）《》【】",
    "1 + 1 = 2\n\n2 + 2 = 4\n\n\n\n",
)


def golden(processor: Any) -> list[tuple[str, list[int]]]:
    """(text, token ids) of every text, by a sentencepiece processor."""
    return [(text, [int(token) for token in processor.encode(text)]) for text in TEXTS]
