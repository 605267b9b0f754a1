"""A conversation: its messages so far, its settings, and asking the engine. Not here: input, and how answers look."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import GlmEdgeError, InvalidFileError, StorageError
from ...system.atomic_write import atomic_write
from ...system.safe_open import read_file
from ...types import Chunk, Engine, Message, Request, SamplingParams

_BYTES = 64 << 20  # of a saved conversation, at most


class Conversation:
    """The messages so far and how they go on. `messages` ends with an answer, or is empty; `system` stands apart."""

    def __init__(self, engine: Engine, system: str | None, sampling: SamplingParams, max_tokens: int | None) -> None:
        self._engine = engine
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.system = system or ""
        self.messages: tuple[Message, ...] = ()
        self.interrupted = False  # whether Ctrl-C ended the last answer

    def ask(self, question: str, write: Callable[[str], None]) -> Chunk | None:
        """Answer a question, writing the text as it comes; the last chunk. Ctrl-C ends it: what was written counts.

        Raises RequestError before anything is written; the messages are then as before.
        """
        messages = (*self.messages, Message("user", question))
        system = (Message("system", self.system),) if self.system else ()
        self.interrupted = False
        adapter = next(iter(self._engine.info.adapters), None)
        request = Request(system + messages, self.sampling, self.max_tokens, trim=True, adapter=adapter)
        generation = self._engine.submit(request)
        text = ""
        last: Chunk | None = None
        while True:
            try:
                # a timeout, because a wait without one cannot be interrupted on Windows
                last = chunk = generation.get(timeout=0.2)
                if chunk is None:
                    break
                text += chunk.text
                write(chunk.text)
                if chunk.finish_reason is not None:
                    break
            except TimeoutError:
                continue
            except KeyboardInterrupt:
                self.interrupted = True
                generation.cancel()
        self.messages = (*messages, Message("assistant", text))
        return last

    @property
    def rounds(self) -> int:
        return len(self.messages) // 2

    @property
    def last_question(self) -> str | None:
        return self.messages[-2].content if self.messages else None

    def drop_last(self) -> None:
        """Take back the last question and its answer."""
        self.messages = self.messages[:-2]

    def set(self, name: str, value: Any) -> None:
        """Set max_tokens or a field of SamplingParams; the value is right for it."""
        if name == "max_tokens":
            self.max_tokens = value
        else:
            self.sampling = replace(self.sampling, **{name: value})

    def save(self, path: Path) -> None:
        """Write it as JSON, the API's `messages`. Raises StorageError for a file that is no conversation already."""
        if path.is_dir() or (path.exists() and not _is_conversation(path)):
            raise StorageError(f"{path}: is there and is no conversation; choose another name")
        system = (Message("system", self.system),) if self.system else ()
        saved = [{"role": message.role, "content": message.content} for message in (*system, *self.messages)]
        text = json.dumps({"messages": saved}, ensure_ascii=False, indent=1)
        try:
            atomic_write(path, [f"{text}\n".encode("utf-8", "replace")])
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error

    def load(self, path: Path) -> None:
        """Go on with a saved one. Raises StorageError, InvalidFileError; the conversation is then as before."""
        self.system, self.messages = _read(path)


def _read(path: Path) -> tuple[str, tuple[Message, ...]]:
    try:
        content = json.loads(read_file(path, _BYTES))
    except (ValueError, RecursionError):
        raise InvalidFileError(f"{path}: is not JSON") from None
    listed = content.get("messages") if isinstance(content, dict) else None
    messages = [_message(value) for value in listed] if isinstance(listed, list) else []
    system = ""
    if messages and messages[0] is not None and messages[0].role == "system":
        system = messages.pop(0).content  # type: ignore[union-attr]
    roles = [message.role if message is not None else "" for message in messages]
    if not isinstance(listed, list) or roles != ["user", "assistant"] * (len(roles) // 2):
        raise InvalidFileError(f"{path}: is no conversation: its messages must be questions, each with an answer")
    return system, tuple(message for message in messages if message is not None)


def _message(value: object) -> Message | None:
    match value:
        case {"role": "system" | "user" | "assistant" as role, "content": str(content)}:
            return Message(role, content)
    return None


def _is_conversation(path: Path) -> bool:
    try:
        _read(path)
    except GlmEdgeError:
        return False
    return True
