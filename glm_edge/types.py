"""The values that cross the boundaries between rooms: typed, frozen, free of llama.cpp and of JSON.

Not here: how a request is written on the wire (`api/wire.py`) and how it is decoded (`engine/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from .generation import Generation

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "cancelled"]
LoadMode = Literal["direct", "none", "mmap"]  # read past the page cache, read, map


@dataclass(frozen=True)
class Message:
    """One turn of a conversation, as the client wrote it."""

    role: Role
    content: str


@dataclass(frozen=True)
class JsonFormat:
    """The answer is to be one JSON object, or what a schema says."""

    schema: str | None = None  # a JSON Schema, as JSON text


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is drawn. Defaults are the model's own (ChatGLM2-6B `generation` defaults).

    In this order: logit_bias, repetition, presence and frequency penalty, the answer's format, temperature, top_k,
    top_p, min_p. It is the order of Hugging Face's processors and warpers, which the official code runs.
    """

    temperature: float = 0.8  # 0 is greedy
    top_p: float = 0.8  # keep the likeliest tokens until their mass reaches this; 1 keeps every token
    seed: int | None = None  # None draws a new one for each request
    top_k: int = 0  # keep so many of the likeliest tokens; 0 keeps every token
    min_p: float = 0.0  # drop tokens less likely than this times the likeliest
    presence_penalty: float = 0.0  # taken from the logit of each token that the answer has
    frequency_penalty: float = 0.0  # and this for each time that it has it
    repetition_penalty: float = 1.0  # divides positive logits of tokens in prompt or answer, multiplies negative ones
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # token id -> what is added to its logit
    response_format: JsonFormat | None = None  # None is text
    logprobs: bool = False  # give the log probability of each token of the answer
    top_logprobs: int = 0  # and those of so many of the likeliest at its place


@dataclass(frozen=True)
class Request:
    """What `Engine.submit` takes: a conversation whose last message is the user's, or a prompt as it is."""

    messages: tuple[Message, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None  # None: as many as the context has room for
    stop: tuple[str, ...] = ()  # strings that end the answer; not part of it
    n: int = 1  # answers to it; they share the computing of the prompt
    trim: bool = False  # leave out the oldest rounds when the conversation does not fit, instead of refusing it
    prompt: str | None = None  # text to go on with, instead of messages: no round template, the control ids in front
    max_length: int | None = None  # tokens of prompt and answer together, as ChatGLM counts; may be below the context


@dataclass(frozen=True)
class Stats:
    """Counts and times of one answer; chat, server and bench all print these."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # prompt tokens taken from a cache instead of computed
    queue_s: float  # from submit to the first prompt token
    prefill_s: float  # from there to the first token of the answer
    decode_s: float  # from the first token of the answer to the last
    drafted_tokens: int = 0  # tokens that prompt lookup put to the test
    accepted_tokens: int = 0  # and those of them that were right
    trimmed_rounds: int = 0  # oldest rounds that were left out of the prompt to make it fit

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens computed per second; 0 where none were."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_s if self.prefill_s > 0 else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first: the first is prefill's, so n tokens take n - 1 intervals."""
        return (self.completion_tokens - 1) / self.decode_s if self.decode_s > 0 else 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was to the model itself: before bias, penalties, format, temperature and cuts."""

    token: str  # its text; U+FFFD where it is part of a character
    bytes: bytes
    logprob: float  # natural logarithm
    top: tuple[TokenLogprob, ...] = ()  # the likeliest at this place, likeliest first


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer: whole characters only. The last of each answer carries `finish_reason` and `stats`."""

    text: str
    index: int = 0  # which of the request's n answers
    finish_reason: FinishReason | None = None
    stats: Stats | None = None
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens since the last chunk, where asked for


@dataclass(frozen=True)
class EngineConfig:
    """What an engine is started with. None means: chosen from the machine and the model."""

    model: Path
    n_ctx: int | None = None  # tokens, prompt and answer together
    n_threads: int | None = None  # to write answers with, and to read prompts unless the next says otherwise
    n_threads_batch: int | None = None  # to read prompts with
    n_batch: int | None = None  # tokens computed at once, at most; also the size of the compute buffers
    load_mode: LoadMode | None = None  # "mmap" without repacked weights, the others with them
    slots: int = 1  # answers computed at the same time
    queue: int = 16  # answers that may wait for a slot
    kv_type: Literal["f16", "f32"] = "f16"
    flash_attention: bool | None = None  # None: off, which is the official computation to the last rounding
    prompt_lookup: bool = True  # draft tokens from the prompt where that pays
    cache_folder: Path | None = None  # where computed prefixes are kept over restarts; None: nowhere
    cache_bytes: int = 2 << 30  # what they may take there


@dataclass(frozen=True)
class ModelInfo:
    """What a loaded model is."""

    id: str  # as clients name it: "chatglm2-6b"
    path: Path
    n_params: int
    n_ctx: int  # tokens, as loaded


class Engine(Protocol):
    """The seam between the runtime and those who use it: one method wide."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def ready(self) -> bool:
        """Whether requests are taken now; false while it restarts, and after it failed for good or was closed."""
        ...

    @property
    def steps(self) -> int:
        """Grows while the engine works: one that has requests and makes no step hangs."""
        ...

    def submit(self, request: Request) -> Generation[Chunk]:
        """Queue a request and return at once.

        Raises RequestError (ContextLengthError among them) for a request that can never run, OverloadedError when the
        queue is full, LoadingError while it restarts, EngineClosedError after close().
        """
        ...

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, without the control ids of a prompt. Raises EngineClosedError after close()."""
        ...

    def close(self) -> None:
        """End every running request with EngineClosedError, free the model. Safe to call twice."""
        ...
