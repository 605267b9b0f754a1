"""Constrained sampling: which tokens may come next, where an answer has to be JSON, follow a schema or call a tool.

llguidance keeps a parser for each answer and says after each token which of all tokens go on with it. The sampler gives
the others a logit of -inf, so the rest of sampling is as ever. Control tokens have no bytes here and are never allowed.

At 65,024 tokens, on 2 busy cores: the table of tokens takes 0.2 s of one core and 15 MiB, once, and llguidance 5 MiB.
Compiling takes 1.4 ms (p50 of the battery in tests/; a hostile schema 0.3 s at worst), a step 0.26 ms (p99 1.1; hostile
schemas 34 at worst). Another answer's chunks come every 1.3 ms (p50) while schemas are compiled, as while none is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from ...errors import EngineError, RequestError
from ...llama.model import Model
from ...system.threads import start
from ...types import CallFormat, JsonFormat
from .json_schema import Schema, call_grammar, find_path, grammar, in_field, parse_schema, refused

Allowed = npt.NDArray[np.bool_]

# Bounds on a schema from a stranger. The default of 250,000 states would take up to 500 MB.
_LIMITS = LLParserLimits(max_lexer_states=20_000, max_grammar_size=200_000, verbose_errors=False)


class Constraint:
    """The parser that follows one answer and says which tokens may come next. Not thread-safe."""

    def __init__(self, matcher: LLMatcher, n_vocab: int, eos: int, field: str = "response_format") -> None:
        self._matcher = matcher
        self._field = field  # of the request, which asks for it
        self._n_vocab = n_vocab
        self._eos = eos

    def allowed(self) -> Allowed:
        """Return which tokens may come next, shape (n_vocab,): the end of text alone where nothing else may.

        Raises RequestError where the schema's alternatives exceed what a step may cost.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise self._stuck()
        allowed = np.unpackbits(bits, count=self._n_vocab, bitorder="little").view(np.bool_)
        if not allowed.any():
            allowed[self._eos] = True
        return allowed

    def accept(self, token: int) -> None:
        """Go on by `token`. Raises RequestError as `allowed` does, and for a token that is not allowed."""
        if not self._matcher.consume_token(token):
            raise self._stuck()

    def _stuck(self) -> RequestError:
        problem = f"{self._field}: the answer cannot go on by this schema: {_problem(self._matcher)}"
        return RequestError(problem, param=self._field)


class ConstraintCompiler:
    """The compiler of constraints for one model's vocabulary. It works in the threads of those who ask.

    A thread of its own builds the table of tokens as soon as the model is loaded. Schemas are compiled one after the
    other, so that they take one processor at most from the answers that are being computed.
    """

    def __init__(self, model: Model) -> None:
        self._n_vocab, self._eos = model.n_vocab, model.eos
        self._tokenizer: LLTokenizer | None = None
        self._compiling = threading.Lock()
        self._builder = start(threading.Thread(target=self._build, args=(model,), name="constraints", daemon=True))

    def compile(self, wanted: JsonFormat | CallFormat, n: int) -> list[Constraint]:
        """Return `n` constraints that say the same. Raises RequestError for a schema that cannot be kept."""
        with self._compiling:
            if isinstance(wanted, JsonFormat):
                matcher, field = self._compiled(parse_schema(wanted.schema)), "response_format"
            else:
                matcher, field = self._calls(wanted), "tools"
            return [Constraint(matcher.deep_copy(), self._n_vocab, self._eos, field) for _ in range(n)]

    def _compiled(self, schema: Schema) -> LLMatcher:
        matcher = self._matcher(grammar(schema))
        if problem := _problem(matcher):
            path = find_path(schema, lambda part: _problem(self._matcher(grammar(part))) == problem)
            raise refused(path, f"cannot be used: {problem}")
        if not (Constraint(matcher.deep_copy(), self._n_vocab, self._eos).allowed() & ~self._blank).any():
            raise refused("", "has no answer that matches it")
        return matcher

    def _calls(self, wanted: CallFormat) -> LLMatcher:
        schemas: dict[str, Schema] = {}
        for tool in wanted.tools:
            try:
                schemas[tool.name] = parse_schema(tool.parameters)
                self._compiled(schemas[tool.name])  # alone, so that an error names the tool
            except RequestError as error:
                raise in_field(error, tool.param) from None
        matcher = self._matcher(call_grammar(schemas, required=wanted.required))
        if problem := _problem(matcher):
            raise RequestError(f"tools: they cannot be used together: {problem[:160]}; send fewer", param="tools")
        return matcher

    def close(self) -> None:
        """Wait until the model is not needed any more."""
        self._builder.join()

    def _build(self, model: Model) -> None:
        table = _TokenTable(model.pieces(), model.eos)
        self._blank = np.array([not piece.strip() for piece in table.tokens])
        # without slices, tables for the likeliest kinds of text: they take 15 MB more and save 0.6 ms a token at worst
        self._tokenizer = LLTokenizer(TokenizerWrapper(table), slices=[])

    def _matcher(self, rules: str) -> LLMatcher:
        self._builder.join()
        if self._tokenizer is None:
            raise EngineError("llguidance cannot use this model's vocabulary")
        return LLMatcher(self._tokenizer, rules, log_level=0, limits=_LIMITS)


class _TokenTable:
    """A vocabulary as llguidance reads it: the bytes of every token; control tokens have none."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], eos: int) -> None:
        self.tokens = tokens
        self.eos_token_id = eos

    def __call__(self, text: bytes | str) -> list[int]:
        """Split a text into tokens, which llguidance does only where it forces tokens. Our grammars forbid it."""
        raise EngineError("llguidance must not choose tokens")


def _problem(matcher: LLMatcher) -> str:
    """What llguidance says against a schema, in one line without the schema; empty where it takes it."""
    if not matcher.is_error():
        return ""
    lines = matcher.get_error().splitlines()
    first = lines[0].rpartition("failed to compile JSON schema: ")[2]
    reason = next((line for line in lines if line.startswith("error: ")), "")
    return f"{first} {reason}".strip()
