"""Between JSON and our types, for text without a conversation: POST /v1/completions and POST /v1/tokenize. Pure.

The first is OpenAI's older contract: a prompt is gone on with as it is, without ChatGLM2's round template. What it
shares with chat completions is in `wire.py` and `fields.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RequestError
from ...types import Request, Stats, TokenLogprob
from . import wire
from .checks import NO_NUL, Check, fail, integer, kind, only, says, string, table
from .fields import CHAT

DEFAULT_MAX_TOKENS = 16  # the contract's
MAX_LOGPROBS = 5

_SCHEMA = {"type": "string", "pattern": NO_NUL}


@says({"anyOf": [_SCHEMA, {"type": "array", "items": _SCHEMA, "minItems": 1, "maxItems": 1}]})
def prompt(value: Any, path: str) -> str:
    """A string, or an array with one: clients that send batches do so."""
    if isinstance(value, list):
        if len(value) != 1 or not isinstance(value[0], str):
            raise fail(
                path, "unsupported_value", "must be one string; send a request for each prompt, and no token ids"
            )
        return _text(value[0], f"{path}[0]")
    if isinstance(value, str):
        return _text(value, path)
    raise fail(path, "invalid_type", f"must be a string, not {kind(value)}")


_text = string()

_AS_IN_CHAT = (
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "user",
)

TEXT: dict[str, Check[Any]] = {
    "prompt": prompt,
    **{name: CHAT[name] for name in _AS_IN_CHAT},
    "logprobs": integer(0, MAX_LOGPROBS),
    # Known and not supported: only the values that ask for nothing pass.
    "best_of": only(1, 1.0),
    "echo": only(False),
    "suffix": only(""),
}

TOKENIZE: dict[str, Check[Any]] = {"text": string(), "model": CHAT["model"]}


@dataclass(frozen=True)
class TokenizeCall:
    """A checked request for the ids of a text."""

    text: str
    model: str | None


def parse_text(body: Any) -> wire.ChatCall:
    """Check a completion's body; the first fault found is raised as RequestError."""
    fields = _table(body, TEXT, "prompt")
    stream = fields.get("stream", False)
    if "stream_options" in fields and not stream:
        raise fail("stream_options", "invalid_value", "is only allowed with stream: true")
    top = fields.pop("logprobs", None)
    if top is not None:
        fields |= {"logprobs": True, "top_logprobs": top}
    request = Request(
        messages=(),
        prompt=fields["prompt"],
        sampling=wire.sampling(fields),
        max_tokens=fields.get("max_tokens", DEFAULT_MAX_TOKENS),
        stop=fields.get("stop", ()),
        n=fields.get("n", 1),
    )
    usage = fields.get("stream_options", {}).get("include_usage", False)
    return wire.ChatCall(request, fields.get("model"), stream, usage)


def parse_tokenize(body: Any) -> TokenizeCall:
    """{"text": "…"}, and a model's name where a client sends one."""
    fields = _table(body, TOKENIZE, "text")
    return TokenizeCall(fields["text"], fields.get("model"))


def _table(body: Any, fields: dict[str, Check[Any]], required: str) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    return table(fields, required=(required,))(body, "")


class TextSerializer:
    """How one answer to /v1/completions looks, whole or in events; keeps count of what was said in a stream."""

    def __init__(self) -> None:
        self._said: dict[int, int] = {}  # characters of each answer so far

    def completion(self, head: wire.Head, choices: Sequence[wire.Choice]) -> dict[str, Any]:
        """The whole answers at once."""
        listed = [
            self._choice(head, index, one.text, one.logprobs, one.finish_reason) for index, one in enumerate(choices)
        ]
        counts = wire.total([one.stats for one in choices])
        return {**_head(head), "choices": listed, "usage": wire.usage(counts), **wire.figures(counts)}

    def role_event(self, head: wire.Head, index: int) -> bytes:
        """Text has no roles; a stream begins with its first text."""
        return b""

    def text_event(self, head: wire.Head, index: int, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        return self._event(head, self._choice(head, index, text, logprobs))

    def finish_event(self, head: wire.Head, index: int, finish_reason: str, stats: Stats | None = None) -> bytes:
        """With the times of all answers, where it is the last one's."""
        return self._event(head, self._choice(head, index, "", (), finish_reason), stats)

    def usage_event(self, head: wire.Head, stats: Stats) -> bytes:
        return wire.event({**_head(head), "choices": [], "usage": wire.usage(stats)})

    def _event(self, head: wire.Head, choice: dict[str, Any], stats: Stats | None = None) -> bytes:
        usage = {"usage": None} if head.include_usage else {}
        return wire.event({**_head(head), "choices": [choice], **usage, **wire.figures(stats)})

    def _choice(
        self,
        head: wire.Head,
        index: int,
        text: str,
        logprobs: Sequence[TokenLogprob],
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        scores = self._logprobs(index, logprobs) if head.logprobs else None
        return {"index": index, "text": text, "logprobs": scores, "finish_reason": finish_reason}

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The older form: an array for each property. Offsets are those of the tokens' own texts, in characters."""
        offsets, at = [], self._said.get(index, 0)
        for token in tokens:
            offsets.append(at)
            at += len(token.token)
        self._said[index] = at
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [wire.finite(token.logprob) for token in tokens],
            "top_logprobs": [{one.token: wire.finite(one.logprob) for one in token.top} for token in tokens],
            "text_offset": offsets,
        }


def _head(head: wire.Head) -> dict[str, Any]:
    return {"id": head.id, "object": "text_completion", "created": head.created, "model": head.model}
