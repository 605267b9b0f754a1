"""What the machine offers: how many processors this process may use."""

from __future__ import annotations

import os


def processors() -> int:
    """Processors that this process may run on; all of the machine's where the system cannot tell."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
