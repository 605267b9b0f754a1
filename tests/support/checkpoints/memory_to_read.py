"""How much memory a process takes to read a tensor: measured in a process of its own, by rows of 64."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MEASURE = """
import importlib, resource, sys
from pathlib import Path
module, function, path = sys.argv[1:]
(tensor,) = getattr(importlib.import_module(module), function)(Path(path)).values()
tensor.read_rows(0, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for row in range(0, tensor.rows, 64):
    tensor.read_rows(row, row + 64)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // (1024 if sys.platform == "darwin" else 1))
"""


def memory_to_read(module: str, function: str, path: Path) -> int:
    """KiB by which the peak grows over that of the first rows; the file at `path` has one tensor."""
    command = [sys.executable, "-c", MEASURE, module, function, str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
