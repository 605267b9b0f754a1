"""Every error that GLM Edge raises on purpose: one tree, raised where the fact is known, translated once.

The command line prints `error: <message>` and exits with `exit_code`; the HTTP layer turns the class into a status
(`api/contract/errors.py`). A message says what was wrong, the value, the limit and what to do, on one line. Anything
that is not in this tree is a bug of ours.
"""

from __future__ import annotations

from typing import Any


class GlmEdgeError(Exception):
    """Base of the tree. `exit_code` is what the command line exits with."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields as they are. Unpickling does not call __init__: its arguments need not be the message."""
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[GlmEdgeError], args: tuple[Any, ...], fields: dict[str, Any]) -> GlmEdgeError:
    error = kind.__new__(kind, *args)  # sets args
    error.__dict__.update(fields)
    return error


class UsageError(GlmEdgeError):
    """Options that contradict each other or the machine; nothing was started."""

    exit_code = 2


class InvalidFileError(GlmEdgeError):
    """A file breaks the rules of its format, by accident or by intent."""

    exit_code = 3


class IntegrityError(GlmEdgeError):
    """A file is well formed but is not the expected one: its size, hash or golden tokens differ."""

    exit_code = 4


class UnsupportedModelError(GlmEdgeError):
    """A file is well formed but not a model that GLM Edge can run; or the native library cannot run here."""

    exit_code = 5


class StorageError(GlmEdgeError):
    """The disk or the network failed: missing, full, read-only, in use, broken."""

    exit_code = 6


class OutOfMemoryError(GlmEdgeError):
    """The model, its cache or a buffer does not fit into the memory."""

    exit_code = 7


class RequestError(GlmEdgeError):
    """A request that cannot be served as it is; `param` names the field at fault, `code` is for programs."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


# fields of several texts -> what takes the tokens, and what to do
_OVERLONG = {
    "messages": ("messages take", "shorten the messages or drop the oldest"),
    "history": ("prompt and history take", "shorten the prompt or drop the oldest rounds of the history"),
}


class ContextLengthError(RequestError):
    """The prompt does not fit the context; raised by `submit`, before any chunk.

    Args:
        at_least: whether `prompt_tokens` is a lower bound, because the rest of the prompt was not tokenized.
    """

    def __init__(self, prompt_tokens: int, n_ctx: int, *, param: str = "messages", at_least: bool = False) -> None:
        what, shorten = _OVERLONG.get(param, (f"{param} takes", f"shorten the {param}"))
        super().__init__(  # OpenAI's words first, by which clients know it
            f"this model's maximum context length is {n_ctx} tokens and the {what}"
            f" {'at least ' * at_least}{prompt_tokens}, leaving no room for an answer; {shorten}",
            param=param,
            code="context_length_exceeded",
        )
        self.prompt_tokens = prompt_tokens
        self.n_ctx = n_ctx


class EngineError(GlmEdgeError):
    """The engine failed while it worked on a request. The request is lost; the server goes on."""


class EngineDiedError(EngineError):
    """The engine's process ended while it worked on a request. Another one is being started."""


class RepeatedCrashError(EngineError):
    """The engine died several times while it answered this prompt, so the prompt is refused for a while."""


class RetryError(GlmEdgeError):
    """A request that cannot be served now; it can be sent again in about `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LoadingError(RetryError, EngineError):
    """The model is still being loaded."""


class EngineClosedError(EngineError):
    """The engine is shutting down: it takes no more requests, or has ended this one."""


class OverloadedError(RetryError, EngineError):
    """Every slot is taken and the queue is full."""


class RateLimitError(RetryError):
    """One client has as many answers as it may have at once."""
