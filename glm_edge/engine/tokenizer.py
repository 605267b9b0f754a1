"""Conversations to token ids, by the vocabulary of the loaded model and the ids its file names.

A prompt is the two control ids that the model was trained with and the ids of plain text; nothing is ever parsed out
of the text, so no message can contain a control token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import IntegrityError
from ..llama import Model
from ..prompt import prompt_text, rounds
from ..types import Message


class Tokenizer:
    """Args: metadata: of the GGUF file, with `glm_edge.prefix_ids` and `glm_edge.golden`."""

    def __init__(self, model: Model, metadata: Mapping[str, Any]) -> None:
        self._model = model
        self._prefix: list[int] = list(metadata["glm_edge.prefix_ids"])
        self._golden: list[tuple[str, list[int]]] = json.loads(metadata["glm_edge.golden"])

    def check(self, path: Path) -> None:
        """Tokenize the texts that the converter put into the file.

        Raises IntegrityError when any gives other ids than it did there: file and runtime do not fit each other.
        """
        for text, ids in self._golden:
            if (got := self._model.tokenize(text)) != ids:
                raise IntegrityError(
                    f"{path}: the tokenizer gives {got} for {text!r} where the converter gave {ids};"
                    " convert the checkpoint again with this version"
                )

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a whole prompt: [gMASK], sop, text."""
        return self._prefix + self._model.tokenize(prompt_text(*rounds(messages)))
