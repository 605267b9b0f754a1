"""From token bytes to the text that a reader sees: whole characters, the official clean-up, stop strings.

The official code cleans a finished answer (`process_response`: strip both ends, replace a training placeholder). Here
the same happens while streaming. Text that the clean-up may still change, or that may be the start of a stop string, is
held back until it is decided: so a stop string may span any number of tokens. The chunks together equal the cleaned
whole.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

# process_response of ChatGLM2-6B's modeling code
_PLACEHOLDER, _REPLACEMENT = "[[训练时间]]", "2023年"


class AnswerText:
    """The text of one answer: takes its tokens' bytes, gives the text that can be shown.

    Args:
        stop: strings that end the answer; none of them appears in the text. Matched in the cleaned text.
        continues: whether the answer goes on with a text: then white space at its beginning belongs to it.
    """

    def __init__(self, stop: Sequence[str] = (), *, continues: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""  # decoded, held back: may be part of a placeholder, a stop string or the final white space
        self._started = continues  # or a character other than white space has come
        self.stopped = False  # a stop string was found

    def feed(self, piece: bytes) -> str:
        """Take one token's bytes; return the text that can be shown now, perhaps none."""
        return self._advance(self._decoder.decode(piece), last=False)

    def end(self, *, complete: bool) -> str:
        """The rest of the text. `complete`: the model ended here; otherwise bytes of a cut character are dropped."""
        return self._advance(self._decoder.decode(b"", final=True) if complete else "", last=True)

    def _advance(self, text: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        self._held += text
        if not self._started:
            self._held = self._held.lstrip()
            self._started = bool(self._held)
        self._held = self._held.replace(_PLACEHOLDER, _REPLACEMENT)
        found = [i for s in self._stop if (i := self._held.find(s)) >= 0]
        if found:
            self.stopped = last = True
            self._held = self._held[: min(found)]
        shown = self._held.rstrip() if last else self._held[: self._safe()]
        self._held = "" if last else self._held[len(shown) :]
        return shown

    def _safe(self) -> int:
        """How many leading characters of the held text are certain."""
        text = self._held
        safe = len(text)
        for pattern in (_PLACEHOLDER, *self._stop):
            for n in range(min(len(pattern) - 1, len(text)), 0, -1):
                if text.endswith(pattern[:n]):
                    safe = min(safe, len(text) - n)
                    break
        return len(text[:safe].rstrip())
