"""LlamaEngine: the engine in this process. One thread (`loop.py`) owns the llama context; everyone else submits and
reads.

`submit` tokenizes in the caller's thread, so a prompt that cannot fit is refused before anything is queued.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from collections.abc import Sequence as MessageSequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ..errors import ContextLengthError, EngineClosedError, GlmEdgeError, RequestError
from ..generation import Generation
from ..llama.context import Batch, Context
from ..llama.model import Model
from ..llama.runtime import NONE_REMOTE, RemoteLayers, runtime
from ..model.checks import check_model, fingerprint, model_id
from ..model.gguf import read_gguf
from ..system.device import memory_available, processors
from ..system.threads import start
from ..types import Chunk, EngineConfig, Message, ModelInfo, Request
from .adapters import chosen, load_adapters
from .drafts import MAX_DRAFT
from .latency import LatencyModel
from .loop import EngineLoop
from .memory_plan import MemoryPlan, plan_memory, sequence_count, weights_of
from .prefix_cache.store import Store
from .remote import find_remote, weights_here
from .sampling.constrained import ConstraintCompiler
from .sampling.sampler import samplers
from .scheduler import SCORED_TOKENS, Scheduler
from .sequence import GenerationJob, Sequence
from .text.tokenizer import Prompt, Tokenizer
from .text.trim import trimmed

R = TypeVar("R")
Tune = Callable[[EngineConfig, Model, MemoryPlan], EngineConfig]


class LlamaEngine:
    """The engine in this process (types.Engine): a loaded model and the thread that answers requests until close().

    Args:
        progress: called with 0..1 while the weights load; returning False stops the load.
        tune: called with the weights loaded and nothing else; returns the configuration for what comes after.

    Raises InvalidFileError, UnsupportedModelError or IntegrityError for a file that must not be run, OutOfMemoryError
    for a model that does not fit into memory, UsageError for a configuration that does not fit the model.
    """

    def __init__(
        self, config: EngineConfig, progress: Callable[[float], bool] | None = None, tune: Tune | None = None
    ) -> None:
        file = read_gguf(config.model)
        check_model(file)
        n_sequences = sequence_count(config.slots)
        available, weights = memory_available(), weights_of(file)
        remote = find_remote(config.rpc, weights.sizes.layers, available)
        weights = weights_here(weights, file, remote)
        self.plan = plan_memory(config, weights, sequences=n_sequences, available=available)
        self.steps = 0  # graph nodes computed so far
        self._idle = threading.Condition()  # notified when somebody has tokenized
        self._tokenizing = 0  # who tokenizes now; the model is freed when nobody does
        with ExitStack() as made:  # closes what there is, the last first, where the rest cannot be had
            self._model = open_model(config, self.plan, progress, remote)
            made.callback(self._model.close)
            if tune is not None:
                config = tune(config, self._model, self.plan)
            self._config = config
            made.callback(self._wait_for_tokenizing)
            self._tokenizer = Tokenizer(self._model, file)
            digest = fingerprint(file)
            self._store = _open_store(config, digest, self.plan.prefix_states)
            made.callback(self._store.close)
            self._context = self._open_context(config)
            made.callback(self._context.close)
            self._constraints = ConstraintCompiler(self._model)
            made.callback(self._constraints.close)
            scheduler = Scheduler(
                self._context,
                Batch(self.plan.n_batch),
                config.slots,
                self._store,
                lookup=config.prompt_lookup,
                latency=LatencyModel(_known_costs(config, self.plan), rows_of_four=self.plan.repack),
            )
            self._file = file
            left_out: list[GlmEdgeError] = []
            self._adapters = load_adapters(
                config.adapters,
                file,
                self._context,
                self.plan.n_ctx,
                left_out.append if config.broken_adapters else None,
            )
            self.left_out = [f"an adapter is left out: {error}" for error in left_out]  # lines for the user
            self._info = ModelInfo(
                model_id(file), config.model, self._model.n_params, self.plan.n_ctx, digest=digest.hex()
            )
            self._loop = EngineLoop(scheduler, slots=config.slots, queue_size=config.queue)
            self._thread = start(threading.Thread(target=self._loop.run, name="engine", daemon=True))
            self._made = made.pop_all()

    @property
    def info(self) -> ModelInfo:
        return replace(self._info, adapters=tuple(self._adapters))

    @property
    def model(self) -> Model:
        """The loaded weights, for measurements beside the engine."""
        return self._model

    @property
    def warnings(self) -> list[str]:
        """What the user should know about the load: a line each."""
        return [*([self.plan.warning] if self.plan.slow else []), *self._store.warnings, *self.left_out]

    def _open_context(self, config: EngineConfig) -> Context:
        threads = config.n_threads or processors().best
        return Context(
            self._model,
            n_ctx=self.plan.n_ctx,
            n_batch=self.plan.n_batch,
            n_sequences=sequence_count(config.slots),
            n_outputs=config.slots + MAX_DRAFT + SCORED_TOKENS,
            n_threads=threads,
            n_threads_batch=config.n_threads_batch or threads,
            kv_type=config.kv_type,
            flash_attention=bool(config.flash_attention),
            should_abort=self._between_nodes,
        )

    def _between_nodes(self, _: object) -> bool:
        """Whether to stop the batch. Called in llama.cpp's threads, some hundred times a batch."""
        self.steps += 1
        return self._loop.abort

    @property
    def ready(self) -> bool:
        return self._loop.error is None

    @property
    def failure(self) -> GlmEdgeError | None:
        error = self._loop.error
        return None if isinstance(error, EngineClosedError) else error

    @property
    def ended(self) -> bool:
        return not self.ready

    def submit(self, request: Request) -> Generation[Chunk]:
        """Queue a request; see types.Engine."""
        self._loop.check_capacity(request.answers)  # before any work, and again when they enter
        adapter = chosen(self._adapters, request.adapter)
        n_ctx = self._info.n_ctx
        if adapter is not None:
            request = replace(request, prefix_scope=adapter.scope(request.prefix_scope))
            n_ctx -= adapter.n
        prompts, dropped = self._prompts(request, n_ctx)
        capacities = [_max_new_tokens(request, len(prompt.ids), n_ctx) for prompt in prompts]
        sequences: list[Sequence] = []
        generation: Generation[Chunk] = Generation(self._loop.on_cancel, lambda: self._loop.progress(sequences[0]))
        for prompt, capacity in zip(prompts, capacities, strict=True):  # all fit: no schema is compiled for nothing
            limit = capacity if request.max_tokens is None else min(request.max_tokens, capacity)
            for sampler in samplers(request, prompt.ids, n_vocab=self._model.n_vocab, constraints=self._constraints):
                job = GenerationJob(request, prompt, limit, dropped, len(sequences), adapter)
                sequences.append(Sequence(job, sampler, self._model, generation, sequences, self._on_end))
        self._loop.enter(sequences)
        return generation

    def _prompts(self, request: Request, n_ctx: int) -> tuple[list[Prompt], int]:
        """The prompts of a request, and how many rounds were left out of a conversation."""
        messages, dropped = request.messages, 0
        with self._vocabulary_in_use():
            if request.prompts:
                prompts = [self._tokenizer.raw(raw, n_ctx) for raw in request.prompts]
            else:
                if request.trim:
                    messages, dropped = self._trim(request, n_ctx)
                prompts = [self._tokenizer.prompt(messages, request.prefix_scope, n_ctx, request.param)]
        if request.scored and (total := sum(len(prompt.ids) for prompt in prompts)) > n_ctx:
            raise RequestError(
                f"prompt: with echo and logprobs all prompts together may take {n_ctx} tokens, not {total}; send fewer",
                param="prompt",
                code="context_length_exceeded",
            )
        return prompts, dropped

    def tokenize(self, text: str, check: Callable[[], None] = lambda: None) -> list[int]:
        """Ids of plain text; see types.Engine."""
        found: list[int] = []
        with self._vocabulary_in_use():
            for ids, _ in self._model.tokenize_slices(text):
                found += ids
                check()
                self._loop.check_running()
        return found

    @contextmanager
    def _vocabulary_in_use(self) -> Iterator[None]:
        """Keeps the model from being freed, by any number of threads at once. Raises where it may be free already."""
        with self._idle:
            self._tokenizing += 1
        try:
            self._loop.check_running()
            yield
        finally:
            with self._idle:
                self._tokenizing -= 1
                self._idle.notify_all()

    def _trim(self, request: Request, n_ctx: int) -> tuple[tuple[Message, ...], int]:
        reserve = min(request.max_tokens or n_ctx, n_ctx // 4)
        return trimmed(request.messages, n_ctx, reserve, partial(self._prompt_tokens, request.prefix_scope, n_ctx))

    def _prompt_tokens(self, scope: bytes, n_ctx: int, messages: MessageSequence[Message]) -> int:
        """Tokens of a prompt; a lower bound, above the context, where it is much longer than that."""
        self._loop.check_running()
        try:
            return len(self._tokenizer.prompt(messages, scope, n_ctx).ids)
        except ContextLengthError as error:
            return error.prompt_tokens

    def reload_adapters(self) -> ModelInfo:
        """See types.Engine; raises as `load_adapters` does."""
        config = self._config
        self._adapters = self.between_batches(
            lambda: load_adapters(config.adapters, self._file, self._context, self._info.n_ctx)
        )
        return self.info

    def flush(self) -> None:
        """Wait until what was computed is on disk, if there is a cache folder."""
        self.between_batches(lambda: None)  # a reader gets the end of an answer before the store gets its cells
        self._store.flush()

    def between_batches(self, function: Callable[[], R]) -> R:
        """Call a function in the engine's thread and return its result: for measurements beside the engine.

        OpenMP keeps a team of threads for every thread that computes. When two teams have more threads than the machine
        has processors, libgomp lets them sleep at every barrier, which costs both milliseconds a token.
        """
        return self._loop.between_batches(function)

    def close(self) -> None:
        """End every answer with EngineClosedError and free the model. Safe to call twice."""
        self._loop.stop(EngineClosedError("the engine is shutting down"))
        self._thread.join()
        self._made.close()

    def _wait_for_tokenizing(self) -> None:
        with self._idle:
            self._idle.wait_for(lambda: not self._tokenizing)

    def _on_end(self, sequence: Sequence) -> None:
        """In the engine's thread, before the reader gets the end: remember its token ids for the next round."""
        self._tokenizer.remember(sequence.job.prompt, sequence.ids, sequence.shown, sequence.scope)
        self._loop.leave(sequence)


def _max_new_tokens(request: Request, prompt_tokens: int, n_ctx: int) -> int:
    """Tokens that the context, and max_length, leave for an answer; at least 1. Raises ContextLengthError."""
    param = "prompt" if request.prompts else request.param
    if prompt_tokens >= n_ctx:
        raise ContextLengthError(prompt_tokens, n_ctx, param=param)
    if request.max_length is None:
        return n_ctx - prompt_tokens
    if prompt_tokens >= request.max_length:
        raise RequestError(
            f"max_length is {request.max_length} tokens and the prompt alone would take {prompt_tokens}; raise it",
            param="max_length",
            code="context_length_exceeded",
        )
    return min(request.max_length, n_ctx) - prompt_tokens


def _known_costs(config: EngineConfig, plan: MemoryPlan) -> tuple[tuple[int, float], ...]:
    """What a tuning found batches to take, if it loaded the weights the same way."""
    costs = config.batch_costs
    return costs.seconds if costs is not None and costs.repacked == plan.repack else ()


def open_model(
    config: EngineConfig,
    plan: MemoryPlan,
    progress: Callable[[float], bool] | None = None,
    remote: RemoteLayers = NONE_REMOTE,
) -> Model:
    """The weights, loaded as planned."""
    load = partial(Model, config.model, load_mode=plan.load_mode, repack=plan.repack, huge=plan.huge, remote=remote)
    return load(progress=progress) if config.runtime is None else load(progress=progress, runtime_name=config.runtime)


def _open_store(config: EngineConfig, digest: bytes, memory: int) -> Store:
    """Prefixes that the model of this digest computed, in the cache's layout of this configuration and runtime."""
    versions = runtime(config.runtime or "llama").versions()
    system = versions.pop("system")
    # flash attention stores values in rows
    layout = versions, config.kv_type, bool(config.flash_attention)
    identity = hashlib.sha256(repr(layout).encode() + digest).digest()
    own = hashlib.sha256(identity + system.encode()).digest()  # this processor's kernels
    return Store(config.cache_folder, identity, own=own, limit=config.cache_bytes, memory=memory, model=config.model)
