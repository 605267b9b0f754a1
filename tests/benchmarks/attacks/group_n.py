"""The attacks on a server and its commands that sockets and a shell can show, against any version of the program.

    python tests/benchmarks/attacks/group_n.py --python PATH_OF_A_PYTHON_WITH_GLM_EDGE
    python tests/benchmarks/attacks/group_n.py --python venv/bin/python --rows N1,N4,slash

One function a row, in `http_rows.py` and `file_rows.py`; the letters are those of the tests' markers. Prints for each
`held` or `FAILED` with what was seen. Exit code 1 if one failed. Runs on the demo model, in temporary folders. All rows
take half an hour, N13 alone 11 minutes of it.
Not here: N12 (no request makes one of its answers fail at will), a foreign profile (N17), weights that are overwritten
while they are mapped (N19: `serve` maps only what does not fit the memory; here they are no numbers from the start).
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

import file_rows
import http_rows

from support.server.victim import Place, Result

ROWS: dict[str, Callable[[Place], Result]] = {
    "N1": http_rows.n1,
    "N2": file_rows.n2,
    "N3": http_rows.n3,
    "N4": http_rows.n4,
    "N5": file_rows.n5,
    "N6": file_rows.n6,
    "N7": file_rows.n7,
    "N8": http_rows.n8,
    "N9": http_rows.n9,
    "N10": file_rows.n10,
    "N11": http_rows.n11,
    "N13": http_rows.n13,
    "N14": http_rows.n14,
    "N15": file_rows.n15,
    "N16": file_rows.n16,
    "N17": file_rows.n17,
    "N18": file_rows.n18,
    "N19": file_rows.n19,
    "N20": file_rows.n20,
    "N21": http_rows.n21,
    "slash": http_rows.slash,
    "spaces": http_rows.spaces,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="a Python that has glm_edge")
    parser.add_argument("--rows", default=",".join(ROWS), help="which, with commas between")
    args = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files if files < 0 else min(files, 20_000), files))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: ends with what it started
    failed = 0
    for name in args.rows.split(","):
        with tempfile.TemporaryDirectory(prefix="glm-edge-attack-") as folder:
            try:
                held, seen = ROWS[name](Place(os.path.abspath(args.python), Path(folder)))
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                held, seen = False, f"{type(error).__name__}: {error}"
        failed += not held
        print(f"{name:7}{'held' if held else 'FAILED'}  {seen}", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
