"""Pulls that are killed at random moments: the same bytes in the end, nothing fetched twice, the disk's bound kept."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.checkpoints.fake_hub import REPO, Hub
from support.checkpoints.wide_checkpoint import shard

# Forks children that pull and get SIGKILL at random moments of the time that a pull takes. One that is through before
# its moment comes has to have made the right file, and the next begins anew.
KILLER = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
from glm_edge.convert.pull.pull import pull
from huggingface_hub import HfApi, constants, errors, hf_hub_url
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff, logging

repo, endpoint, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
right = Path(sys.argv[4]).read_bytes()

def child():
    pid = os.fork()
    if not pid:
        pull(repo, out, endpoint=endpoint, threads=1)
        os._exit(0)
    return pid

def finished(status):
    assert status == 0 and out.read_bytes() == right and os.listdir(out.parent) == [out.name]
    out.unlink()

began = time.monotonic()
finished(os.waitpid(child(), 0)[1])
took = time.monotonic() - began
random.seed(3)
kills = rounds = 0
while kills < 20:
    pid = child()
    time.sleep(random.uniform(0.02, 0.6) * took)  # any moment: no event stands for it
    ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        kills += 1
        if out.exists():  # it was through, but for the removal of its folder
            assert out.read_bytes() == right
            out.unlink()
            shutil.rmtree(f"{out}.pull", ignore_errors=True)
    else:
        finished(status)
        rounds += 1
if not out.exists():
    finished(os.waitpid(child(), 0)[1])
print(json.dumps([took, kills, rounds]))
"""


def disk_use(folder: Path) -> int:
    """Bytes that a folder takes of the disk; files come and go while it looks."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(place, name))
                total += min(status.st_blocks * 512, -(-status.st_size // 4096) * 4096)
    return total


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children that it forks")
def test_twenty_kills_change_no_byte_fetch_nothing_twice_and_never_pass_the_disks_bound(
    hub: Hub, out: Path, expected: bytes, tmp_path: Path
) -> None:
    right = tmp_path / "right.gguf"
    right.write_bytes(expected)
    hub.pause = 0.0005
    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.002):
            most = max(most, disk_use(out.parent))

    watcher = threading.Thread(target=watch)
    watcher.start()
    command = [sys.executable, "-W", "ignore", "-c", KILLER, REPO, hub.endpoint, str(out), str(right)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # no threads at the time of a fork
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    over.set()
    watcher.join()
    assert done.returncode == 0, done.stderr
    _, kills, rounds = json.loads(done.stdout)
    assert kills == 20
    largest = max(len(hub.files[shard(n)]) for n in range(1, 6))
    assert right.stat().st_size < most <= 1.01 * (right.stat().st_size + largest)
    assert rounds < 20  # kills came in the middle
    for asked in "\n".join(hub.asked).split("GET config.json 0"):  # which begins a pull
        places = [(shard, int(start)) for shard, start in re.findall(r"GET (\S*\.bin) (\d+)", asked)]
        assert places == sorted(places)  # on from where it was, and never back to a shard that was done
