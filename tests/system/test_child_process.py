"""Signals wait while a child starts, whichever thread the system gives them to."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from glm_edge.system.child_process import signals_held_back


@pytest.mark.skipif(os.name != "posix", reason="needs signal masks")
def test_a_signal_waits_for_the_end_of_the_block_although_another_thread_may_take_it() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a command run here may have left its own
    over = threading.Event()
    other = threading.Thread(target=over.wait)  # does not block the signal
    other.start()
    reached: list[bool] = []

    def hold_back() -> None:
        with signals_held_back(signal.SIGINT):
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(not over.wait(0.2))  # the other thread has it by now

    try:
        with pytest.raises(KeyboardInterrupt):
            hold_back()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        over.set()
        other.join()
        signal.signal(signal.SIGINT, before)
    assert reached == [True]
