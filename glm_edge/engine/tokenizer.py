"""Conversations to token ids, by the vocabulary of the loaded model and the ids its file names.

A prompt is the two control ids that the model was trained with and the ids of plain text; nothing is ever parsed out
of the text, so no message can contain a control token.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import IntegrityError
from ..gguf import GgufFile
from ..llama import Model
from ..model_file import golden_texts, prefix_ids
from ..prompt import prompt_text, rounds
from ..types import Message


class Tokenizer:
    """Tokenizes with `model`, by what its `file` says.

    Raises IntegrityError when the texts that the converter put into the file give other ids here than they did there:
    file and runtime do not fit each other.
    """

    def __init__(self, model: Model, file: GgufFile) -> None:
        self._model = model
        self._prefix = list(prefix_ids(file))
        for text, ids in golden_texts(file):
            if (got := model.tokenize(text)) != list(ids):
                raise IntegrityError(
                    f"{file.path}: the tokenizer gives {got} for {text!r} where the converter gave {ids};"
                    " convert the checkpoint again with this version"
                )

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a whole prompt: [gMASK], sop, text."""
        return self._prefix + self._model.tokenize(prompt_text(*rounds(messages)))
