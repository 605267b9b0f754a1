"""A program in a terminal of its own, as a user has it: keys in, what is shown out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>78])|\r")
# makes stdin the terminal that Ctrl-C comes from
_OWN = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
PATIENCE = 120  # seconds; more than any machine needs


class Terminal:
    """The terminal's side that a user has. What is shown comes without colours and movements of the cursor."""

    def __init__(self, handle: int, program: subprocess.Popen[bytes]) -> None:
        self.program = program
        self._handle = handle
        self._shown = ""
        self._seen = 0  # characters that an earlier `said` has passed
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        raw = b""
        while True:
            try:
                part = os.read(self._handle, 1 << 16)
            except OSError:  # the program has gone
                part = b""
            raw += part
            with self._changed:
                self._shown = _ESCAPES.sub("", raw.decode("utf-8", "ignore"))
                self._changed.notify_all()
            if not part:
                return

    def type(self, keys: str) -> None:
        os.write(self._handle, keys.encode())

    def said(self, text: str) -> str:
        """Wait until a text is shown after those that were waited for; all that was shown up to it."""
        with self._changed:
            if not self._changed.wait_for(lambda: text in self._shown[self._seen :], PATIENCE):
                raise AssertionError(f"it never showed {text!r} after {self._shown[self._seen :]!r}")
            before, self._seen = self._seen, self._shown.index(text, self._seen) + len(text)
            return self._shown[before : self._seen]

    def ends(self) -> int:
        """The exit code of the program, which ends by itself."""
        return self.program.wait(PATIENCE)

    def close(self) -> None:
        if self.program.poll() is None:
            self.program.kill()
            self.program.wait()
        self._reader.join()
        os.close(self._handle)


@contextmanager
def terminal(*command: str, **environment: str) -> Iterator[Terminal]:
    """Run a program in a new terminal of 80 by 24 and end both."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    settings = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment}  # nobody answers where the cursor is

    program = subprocess.Popen(
        [sys.executable, "-c", _OWN, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **settings},
        start_new_session=True,
    )
    os.close(theirs)
    shown = Terminal(ours, program)
    try:
        yield shown
    finally:
        shown.close()
