"""Conversations to token ids, by the vocabulary of the loaded model and the control ids that its file names.

A prompt is two control ids, [gMASK] and sop, and then the ids of plain text. No special token is ever parsed out of the
text, so no message can contain a control token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import ContextLengthError, IntegrityError, RequestError
from ...llama.model import Model
from ...model.checks import golden_texts, prefix_ids
from ...model.values import GgufFile
from ...types import Message
from .prompt import conversation_text
from .prompt_cache import PromptTokenCache

_COUNTED = 4  # contexts; the tokens of a longer prompt are not counted to the end


@dataclass(frozen=True)
class Prompt:
    """A prompt as text and as ids: [gMASK], sop, then those of the text."""

    text: str
    ids: list[int]
    begin: int = 0  # of the text's ids, after the control ids


class Tokenizer:
    """The tokenizer of a loaded model, with the control ids of its `file` and the ids of past conversations.

    Raises IntegrityError when the golden texts of the file give other ids here than they gave the converter: then file
    and runtime do not fit each other.
    """

    def __init__(self, model: Model, file: GgufFile) -> None:
        self._model = model
        self._prefix = list(prefix_ids(file))
        self._prompt_tokens = PromptTokenCache()
        # the id of SentencePiece's dummy prefix, which the middle of a prompt must not have
        self._dummy = model.tokenize("\n")[:-1]
        for text, ids in golden_texts(file):
            if (got := model.tokenize(text)) != list(ids):
                raise IntegrityError(
                    f"{file.path}: the tokenizer gives {got} for {text!r} where the converter gave {ids};"
                    " convert the checkpoint again with this version"
                )

    def prompt(
        self, messages: Sequence[Message], scope: bytes = b"", n_ctx: int | None = None, param: str = "messages"
    ) -> Prompt:
        """The prompt of a conversation; the part of it that its scope knows in the ids that the model wrote.

        Raises ContextLengthError for one that is several times as long as the context, before all of it is tokenized.
        """
        text = conversation_text(messages)
        ids, rest = self._prompt_tokens.recall(text, scope)
        if ids:
            new = self._ids(rest, n_ctx, param)
            if new[:1] == self._dummy:
                return Prompt(text, ids + new[1:])
        return Prompt(text, self._prefix + self._ids(text, n_ctx, param))

    def raw(self, text: str | Sequence[int], n_ctx: int | None = None) -> Prompt:
        """A prompt of plain text, or of token ids, alone. Raises as `prompt` does, and RequestError for ids that the
        vocabulary has not."""
        if isinstance(text, str):
            return Prompt(text, self._prefix + self._ids(text, n_ctx, "prompt"), len(self._prefix))
        ids, n_vocab = list(text), self._model.n_vocab
        if n_ctx is not None and len(ids) > n_ctx:
            raise ContextLengthError(len(ids), n_ctx, param="prompt")
        if wrong := [token for token in ids if not 0 <= token < n_vocab]:
            problem = f"prompt: this model's token ids are 0 to {n_vocab - 1}, not {wrong[0]}"
            raise RequestError(problem, param="prompt", code="invalid_value")
        spelled = b"".join(self._model.piece(token) for token in ids).decode("utf-8", "replace")
        return Prompt(spelled, self._prefix + ids, len(self._prefix))

    def _ids(self, text: str, n_ctx: int | None, param: str) -> list[int]:
        found: list[int] = []
        for ids, follow in self._model.tokenize_slices(text):
            found += ids
            if n_ctx is not None and (least := len(found) + follow) > _COUNTED * n_ctx:
                raise ContextLengthError(least, n_ctx, param=param, at_least=True)
        return found

    def remember(self, prompt: Prompt, ids: list[int], shown: str, scope: bytes = b"") -> None:
        """Remember an ended answer: `ids` are the prompt's and the answer's, `shown` is the text that the reader has.

        Does nothing where the ids have another text, white space at the ends aside, as after a stop string, a
        placeholder or half a character.
        """
        written = b"".join(self._model.piece(token) for token in ids[len(prompt.ids) :])
        if shown and written.decode("utf-8", "replace").strip() == shown:
            self._prompt_tokens.remember(prompt.text + shown, ids, scope)
