"""A few cases of `benchmarks/fuzz.py`, so that it runs when it is wanted; ten thousand take three minutes."""

import json
import subprocess
import sys

import pytest

from support.paths import BENCHMARKS

FUZZ = BENCHMARKS / "fuzz.py"


@pytest.mark.case("M21")
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and limits memory as Linux does")
def test_damaged_files_of_every_format_give_our_errors_soon_and_in_little_memory() -> None:
    command = [sys.executable, "-W", "ignore", str(FUZZ), "--cases", "8", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])["formats"]
    assert len(found) > 10
    assert all(counts["refused"] > 0 for counts in found.values())
