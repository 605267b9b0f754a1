"""`python -m convert CHECKPOINT` in a checkout: the same command as `glm-edge convert`, without an install."""

from __future__ import annotations

import importlib.util
import sys

if importlib.util.find_spec("glm_edge.convert") is None:  # an install gives this folder that name
    sys.modules["glm_edge.convert"] = sys.modules[str(__package__)]

from glm_edge.cli.convert import command
from glm_edge.cli.run import run, with_debug

if __name__ == "__main__":
    sys.exit(run(with_debug(command), sys.argv[1:], prog_name="python -m convert"))
