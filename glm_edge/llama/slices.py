"""TextSlicer: cuts a long text into slices whose token ids, one after the other, are those of the whole.

llama.cpp's SentencePiece tokenizer joins two neighbours only if the vocabulary has their joined text. So a text can be
cut between two characters that no piece has side by side: the ids stay the same. ChatGLM2's 64,789 pieces have only
22,754 pairs of neighbours, so most texts can be cut nearly anywhere.

Slices bound two things. A call takes quadratic time in characters without a piece, because llama.cpp reserves the exact
size again for each byte token (40,000 newlines took 0.1 to 0.2 s, 900,000 minutes). And nothing can stop a call.

Not bounded: a text that can be cut nowhere, like two million times the letter a, is one slice. It has pieces, so its
call takes linear time: 0.6 s for 0.8 MB and 1.4 s for 1.8 MB on a free core, three times that on two busy ones, and 80
bytes of memory a character. Nobody waits for it but who sent it and, for memory's sake, others with such a slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

SLICE = 1000  # characters; 0.1 to 0.5 ms a slice, 0.1 to 0.45 s for a million characters of any kind
UNCUT = 50_000  # characters; of larger slices one at a time is tokenized: 4 MB and 0.04 s are no matter
SPACE = "\u2581"  # what the tokenizer reads for a space


class TextSlicer:
    """The places where texts can be cut, by the pieces of a vocabulary.

    Args:
        pieces: the text of every token that user text may become; more of them only mean fewer places.
    """

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pairs: set[tuple[str, str]] = set()
        known: set[str] = set()
        self.longest = 1  # characters of the longest piece: n characters are at least n / longest tokens
        for piece in pieces:
            self._pairs.update(pairwise(piece))
            known.update(piece)
            self.longest = max(self.longest, len(piece))
        # a character of no piece: nothing is joined with it
        self.separator = next(character for character in map(chr, range(1, 0xD800)) if character not in known)

    def slices(self, text: str, size: int = SLICE) -> Iterator[str]:
        """The text in slices of `size` characters, or of more where it can only be cut later."""
        text = text.replace(" ", SPACE)
        start = 0
        while start < len(text):
            stop = min(start + size, len(text))
            while stop < len(text) and (text[stop - 1], text[stop]) in self._pairs:
                stop += 1
            yield text[start:stop]
            start = stop
