"""`python -m convert CHECKPOINT`: the same command from a checkout, without an install."""

from __future__ import annotations

import sys

from glm_edge.cli.run import run

from .cli import command

if __name__ == "__main__":
    sys.exit(run(command, sys.argv[1:], prog_name="python -m convert"))
