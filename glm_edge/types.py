"""The values that cross the boundaries between packages: typed, frozen, free of llama.cpp and of JSON.

Not here: how a request is written on the wire (`api/contract/`) and how it is answered (`engine/engine.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from .errors import GlmEdgeError
from .generation import Generation

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "cancelled"]
LoadMode = Literal["direct", "none", "mmap"]  # read and leave the page cache as it was, read, map
RuntimeName = Literal["llama", "ik", "vulkan"]  # llama.cpp, ik_llama.cpp, llama.cpp on a GPU


@dataclass(frozen=True)
class Message:
    """One message of a conversation, as the client wrote it."""

    role: Role
    content: str


@dataclass(frozen=True)
class JsonFormat:
    """The format of an answer in JSON: any object, or what a schema describes."""

    schema: str | None = None  # a JSON Schema, as JSON text


@dataclass(frozen=True)
class Tool:
    """A tool that the model may call, for the format of the call."""

    name: str
    parameters: str  # a JSON Schema of its arguments, as JSON text
    param: str = "tools"  # where the schema is in the request, for errors


@dataclass(frozen=True)
class CallFormat:
    """The format of an answer that calls one of some tools (`tool_calls.py`), or is text unless a call is required."""

    tools: tuple[Tool, ...]
    required: bool = False


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is sampled. The defaults are the model's own (ChatGLM2-6B's `generation` defaults).

    Applied in this order: logit_bias, repetition, presence and frequency penalty, the answer's format, temperature,
    top_k, top_p, min_p. It is the order of Hugging Face's processors and warpers, which the official code runs.
    """

    temperature: float = 0.8  # 0 is greedy
    top_p: float = 0.8  # keep the likeliest tokens until their mass reaches this; 1 keeps every token
    seed: int | None = None  # None: a new random one for each request
    top_k: int = 0  # keep this many of the likeliest tokens; 0 keeps every token
    min_p: float = 0.0  # drop tokens less likely than this times the likeliest
    presence_penalty: float = 0.0  # subtracted from the logit of each token that occurs in the answer
    frequency_penalty: float = 0.0  # subtracted once for each time that the token occurs
    repetition_penalty: float = 1.0  # divides positive logits of tokens in prompt or answer, multiplies negative ones
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # token id -> added to its logit
    response_format: JsonFormat | CallFormat | None = None  # None is text
    logprobs: bool = False  # return the log probability of each token of the answer
    top_logprobs: int = 0  # and those of this many likeliest tokens at the same position


@dataclass(frozen=True)
class Request:
    """One request to an engine: a conversation, or prompts of plain text.

    A conversation ends with the user, or with the assistant, whose last message is continued then.
    """

    messages: tuple[Message, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None  # None: as many as fit into the context; 0 only with echo
    stop: tuple[str, ...] = ()  # strings that end the answer; they are not part of it
    n: int = 1  # number of answers to each prompt; it is computed once for all of them
    trim: bool = False  # leave out the oldest rounds when the conversation does not fit, instead of refusing it
    prompts: tuple[str | tuple[int, ...], ...] = ()  # texts or token ids to continue, instead of messages: control ids
    # in front, no round template
    echo: bool = False  # of prompts: each answer begins with its prompt, and the logprobs with those of its tokens
    max_length: int | None = None  # tokens of prompt and answer together, as ChatGLM counts; may be below the context
    param: str = "messages"  # the field that the messages came in, for errors
    adapter: str | None = None  # the name of an adapter of the engine; None: the model alone
    prefix_scope: bytes = b""  # 32 bytes or none; only requests of one scope share computed prefixes, and quarantines

    @property
    def answers(self) -> int:
        """How many answers it gets: `n` to each prompt, in the order of the prompts."""
        return self.n * max(1, len(self.prompts))

    @property
    def scored(self) -> bool:
        """Whether the log probabilities of the prompts' own tokens are wanted."""
        return self.echo and self.sampling.logprobs


@dataclass(frozen=True)
class Stats:
    """Counts and times of one answer; chat, server and bench all print these."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # prompt tokens taken from a cache instead of computed
    queue_s: float  # from submit until its first token is in a batch
    prefill_s: float  # from there to the first token of the answer
    decode_s: float  # from the first token of the answer to the last
    drafted_tokens: int = 0  # guessed tokens that were verified
    accepted_tokens: int = 0  # drafted tokens that the sampler chose too
    trimmed_rounds: int = 0  # oldest rounds that were left out to make the prompt fit

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens computed per second; 0 where none were."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_s if self.prefill_s > 0 else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first one. Prefill makes the first, so n tokens take n - 1 intervals."""
        return (self.completion_tokens - 1) / self.decode_s if self.decode_s > 0 else 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """The log probability of one token by the model alone: before bias, penalties, format, temperature and cuts."""

    token: str  # its text; U+FFFD where it is part of a character
    bytes: bytes
    logprob: float  # natural logarithm
    top: tuple[TokenLogprob, ...] = ()  # the likeliest tokens at this position, likeliest first


@dataclass(frozen=True)
class Chunk:
    """A part of an answer's text: whole characters only. The last one of an answer has `finish_reason` and `stats`."""

    text: str
    index: int = 0  # which of the request's answers
    finish_reason: FinishReason | None = None
    stats: Stats | None = None
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens since the last chunk, if the request asks for them


# Tokens of the smallest context: the template of one question takes 16 and leaves room for it and an answer.
LEAST_CTX = 64


@dataclass(frozen=True)
class RpcServer:
    """Another machine that computes layers of the model."""

    host: str
    port: int
    memory: int | None = None  # bytes for the model there; None: what it tells

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class BatchCosts:
    """What batches took when a model was tuned: where the engine's own measuring starts from."""

    repacked: bool  # how the weights were loaded; they hold for no other way
    seconds: tuple[tuple[int, float], ...]  # rows of a batch, and what it took


@dataclass(frozen=True)
class EngineConfig:
    """The settings of an engine. None means: chosen by the machine and the model."""

    model: Path
    n_ctx: int | None = None  # tokens, prompt and answer together
    n_threads: int | None = None  # for decode, and for prefill unless n_threads_batch is given
    n_threads_batch: int | None = None  # for prefill
    n_batch: int | None = None  # tokens of one batch at most; also the size of the compute buffers
    runtime: RuntimeName | None = None  # None: llama.cpp
    load_mode: LoadMode | None = None  # "mmap" does not repack weights, the others do
    slots: int = 1  # answers computed at the same time
    queue: int = 252  # answers that may wait for a slot
    kv_type: Literal["f16", "f32"] = "f16"
    flash_attention: bool | None = None  # None: off, which rounds as the official code does
    huge_pages: bool = True  # ask the system for huge pages where memory allows
    prompt_lookup: bool = True  # draft tokens from what repeats where that is measured to be faster
    cache_folder: Path | None = None  # keeps computed prefixes over restarts; None: memory only
    cache_bytes: int = 2 << 30  # limit of that folder
    # name and file of each adapter; without a name, a folder of which every .gguf file is one, by its own name
    adapters: tuple[tuple[str, Path], ...] = ()
    rpc: tuple[RpcServer, ...] = ()  # that compute the model's last layers
    batch_costs: BatchCosts | None = None  # as tuned; None: learned while answers are written
    broken_adapters: bool = False  # leave out those that cannot be loaded, with a warning, instead of failing


@dataclass(frozen=True)
class ModelInfo:
    """The facts of a loaded model."""

    id: str  # as clients name it: "chatglm2-6b"
    path: Path
    n_params: int
    n_ctx: int  # tokens, as loaded
    adapters: tuple[str, ...] = ()  # names of the loaded adapters, by which requests choose one
    digest: str = ""  # hexadecimal; of the file's head and samples of its weights (model.checks.fingerprint)


class Engine(Protocol):
    """The interface between the runtime and its users: LlamaEngine and Worker have it, and the tests' fake engine.

    `submit` does the work. The properties tell about the engine. Every member may be used from any thread.
    """

    @property
    def info(self) -> ModelInfo: ...

    @property
    def ready(self) -> bool:
        """Whether requests are accepted now: false during a restart, after a final failure and after close()."""
        ...

    @property
    def failure(self) -> GlmEdgeError | None:
        """Why the engine is not ready, where an error is the reason: it has failed, or cannot be loaded again."""
        ...

    @property
    def ended(self) -> bool:
        """Whether it will never be ready again."""
        ...

    @property
    def steps(self) -> int:
        """Grows while the engine works. An engine that has requests and makes no step hangs."""
        ...

    def submit(self, request: Request) -> Generation[Chunk]:
        """Queue a request and return at once; the answer comes through the Generation.

        Raises RequestError (for example ContextLengthError) for a request that can never run, OverloadedError when the
        queue is full, LoadingError during a restart, EngineClosedError after close().
        """
        ...

    def tokenize(self, text: str, check: Callable[[], None] = lambda: None) -> list[int]:
        """Ids of plain text, without the control ids of a prompt. Raises EngineClosedError after close().

        Args:
            check: called several times a second while it takes; what it raises ends the work and is raised here.
        """
        ...

    def reload_adapters(self) -> ModelInfo:
        """Read the adapters' files again; running answers keep what they have.

        Raises what is wrong with a file, and changes nothing then; as `submit` during a restart and after close().
        """
        ...

    def close(self) -> None:
        """End every running request with EngineClosedError and free the model. Safe to call twice."""
        ...
