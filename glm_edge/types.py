"""The values that cross the boundaries between rooms: typed, frozen, free of llama.cpp and of JSON.

Not here: how a request is written on the wire (`api/wire.py`) and how it is decoded (`engine/`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from .generation import Generation

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation, as the client wrote it."""

    role: Role
    content: str


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is drawn. Defaults are the model's own (ChatGLM2-6B `generation` defaults).

    Warpers run in the official order: temperature, then top_p.
    """

    temperature: float = 0.8  # 0 is greedy
    top_p: float = 0.8  # 1 keeps every token
    seed: int | None = None  # None draws a new one for each request


@dataclass(frozen=True)
class Request:
    """What `Engine.submit` takes: a conversation whose last message is the user's."""

    messages: tuple[Message, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None  # None: as many as the context has room for
    stop: tuple[str, ...] = ()  # strings that end the answer; not part of it


@dataclass(frozen=True)
class Stats:
    """Counts and times of one answer; chat, server and bench all print these."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # prompt tokens taken from a cache instead of computed
    queue_s: float  # from submit to the first prompt token
    prefill_s: float  # from there to the first token of the answer
    decode_s: float  # from the first token of the answer to the last

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens computed per second; 0 where none were."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_s if self.prefill_s > 0 else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first: the first is prefill's, so n tokens take n - 1 intervals."""
        return (self.completion_tokens - 1) / self.decode_s if self.decode_s > 0 else 0.0


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer: whole characters only. The last chunk carries `finish_reason` and `stats`."""

    text: str
    finish_reason: FinishReason | None = None
    stats: Stats | None = None


@dataclass(frozen=True)
class EngineConfig:
    """What an engine is started with. None means: chosen from the machine and the model."""

    model: Path
    n_ctx: int | None = None  # tokens, prompt and answer together
    n_threads: int | None = None
    slots: int = 1  # answers computed at the same time
    queue: int = 16  # answers that may wait for a slot
    kv_type: Literal["f16", "f32"] = "f16"
    flash_attention: bool = False
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

    def submit(self, request: Request) -> Generation[Chunk]:
        """Queue a request and return at once.

        Raises RequestError (ContextLengthError among them) for a request that can never run, OverloadedError when the
        queue is full, EngineClosedError after close().
        """
        ...

    def close(self) -> None:
        """End every running request with EngineClosedError, free the model. Safe to call twice."""
        ...
