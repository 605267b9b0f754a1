"""Token ids of past conversations by their text, so that the next round hits the prefix cache.

A client sends a conversation back as text. To tokenize that text again may give other ids than the model wrote: the
model may spell in two tokens a word that the tokenizer spells in one. From the first different id on nothing in the
prefix cache fits. So the ids are looked up by the text, and only the new part is tokenized. Each scope
(`types.Request.prefix_scope`) has its own: the ids would tell that another one had the same conversation.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

_LIMIT = 256  # conversations remembered; at 8192 tokens of context, some 80 MB at the very most


class PromptTokenCache:
    """The token ids of conversations by their text, least recently used first. Safe to use from several threads."""

    def __init__(self) -> None:
        self._ids: OrderedDict[tuple[bytes, str], list[int]] = OrderedDict()  # by scope and text
        self._lock = threading.Lock()

    def remember(self, text: str, ids: list[int], scope: bytes = b"") -> None:
        """Remember that a prompt with its answer, in `text` as the client saw it, has the `ids` of the model."""
        with self._lock:
            self._ids[scope, text] = ids
            self._ids.move_to_end((scope, text))
            if len(self._ids) > _LIMIT:
                self._ids.popitem(last=False)

    def recall(self, text: str, scope: bytes = b"") -> tuple[list[int], str]:
        """(ids of the scope's longest conversation that `text` continues, the rest of `text`); ([], text) if none.

        The rest begins with the line break that ends an answer in the prompt. A line break is a byte token, which
        merges with nothing, so the ids of the two parts are the ids of the whole.
        """
        with self._lock:
            known = [t for s, t in self._ids if s == scope and text.startswith(t) and text.startswith("\n", len(t))]
            if not known:
                return [], text
            longest = max(known, key=len)
            self._ids.move_to_end((scope, longest))
            return self._ids[scope, longest], text[len(longest) :]
