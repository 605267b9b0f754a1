"""A server under mixed clients, bad input, killed engines and a full disk for a while: nothing may leak.

    python tests/benchmarks/soak.py --minutes 45            # of the Python that runs it; on the demo model
    python tests/benchmarks/soak.py --minutes 2 --seed 7    # the clients draw what they do from the seed

Prints one JSON line after the warm-up, every minute and at the end: requests by kind and outcome, memory, open files,
threads, places, bytes of the cache. Exit code 1 if at the end files, threads or places are not what they were after the
warm-up, or memory grew by more than 20 % and 30 MB. Ctrl-C ends it early, with the figures. Progress goes to stderr.

As root on Linux the cache is on a file system of 3 MB, so that its disk is full most of the time.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).resolve().parents[1]))

from support.server.mixed_client import KEYS, MixedClient

CLIENTS = 8
WARM_UP = 60.0  # seconds, or a quarter of the run


class Server:
    """A `glm-edge serve` of the Python that runs this, everything it writes in one folder."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        keys = folder / "keys"
        keys.touch(0o600)
        keys.write_text("\n".join(KEYS))
        places = {f"XDG_{name}_HOME": str(folder / name.lower()) for name in ("CACHE", "DATA", "CONFIG")}
        command = [
            sys.executable,
            "-m",
            "glm_edge",
            "serve",
            "--port",
            "0",
            "--ctx",
            "2048",
            "--api-key-file",
            str(keys),
        ]
        self._log = (folder / "log").open("w+b")
        environment = {**os.environ, **places}
        self._popen = subprocess.Popen(command, stderr=self._log, env=environment, start_new_session=True)
        self._process = psutil.Process(self._popen.pid)
        self.port = self._listening(folder / "log")

    def _listening(self, log: Path) -> int:
        for _ in range(600):
            if found := re.search(r"serving .* at http://127\.0\.0\.1:(\d+)", log.read_text("utf-8", "replace")):
                return int(found[1])
            if self._popen.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"the server did not start:\n{log.read_text('utf-8', 'replace')}")

    def kill_child(self) -> None:
        for child in self._process.children():
            child.kill()

    def figures(self) -> dict[str, int]:
        """Memory and cache in bytes, the rest as numbers; of server and child together, but for the memory."""
        children = self._process.children()
        both = [self._process, *children]
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {KEYS[0]}"})
            text = connection.getresponse().read().decode()
        places = {
            name: int(float(re.findall(rf"^glm_edge_{name} (\S+)", text, re.M)[0])) for name in ("running", "queue")
        }
        return {
            "server": self._process.memory_info().rss,
            "child": sum(child.memory_info().rss for child in children),
            "files": sum(one.num_fds() for one in both),
            "threads": sum(one.num_threads() for one in both),
            **places,
            "cache": sum(path.stat().st_size for path in self.cache.rglob("*") if path.is_file()),
        }

    def settled(self, wanted: dict[str, int] | None = None) -> dict[str, int]:
        """The figures once nothing runs and a new child is there, or after a minute as they are."""
        end = time.monotonic() + 60
        while True:
            time.sleep(0.5)
            try:
                now = self.figures()
            except (OSError, http.client.HTTPException, psutil.NoSuchProcess):
                now = {}
            idle = bool(now.get("child")) and not now["running"] + now["queue"]
            if (idle and not (wanted and leaks(wanted, now))) or time.monotonic() > end:
                return now

    def close(self) -> tuple[int, bool]:
        """(exit code, whether the log has a traceback, which then goes to stderr)"""
        self._popen.send_signal(signal.SIGTERM)
        try:
            code = self._popen.wait(60)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        self._log.seek(0)
        _, traceback, rest = self._log.read().decode("utf-8", "replace").partition("Traceback")
        if traceback:
            print(traceback, rest[:4000], file=sys.stderr)
        return code, bool(traceback)


def leaks(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Names of the figures that are not what they were."""
    names = [name for name in ("files", "threads", "running", "queue") if before.get(name) != after.get(name)]
    grown = [name for name in ("server", "child") if after.get(name, 1 << 60) > before.get(name, 0) * 1.2 + 30e6]
    return names + grown


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 3 MB at `folder`, where the user may make one."""
    folder.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "glm-edge-soak", str(folder)]
    mounted = sys.platform == "linux" and os.geteuid() == 0
    mounted = mounted and subprocess.run(command, check=False, capture_output=True).returncode == 0
    if not mounted:
        print("no full disk: only root on Linux can make a small one", file=sys.stderr)
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def load(server: Server, seconds: float, draw: random.Random, ends: Counter[str], what: str) -> None:
    """Clients, and a kill of the child now and then; returns when all of them are gone."""
    stop = threading.Event()
    clients = [MixedClient(server.port, random.Random(draw.random()), ends) for _ in range(CLIENTS)]
    threads = [threading.Thread(target=client.run, args=(stop,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    begin = told = time.monotonic()
    kill = begin + min(seconds / 2, draw.uniform(15, 60))
    try:
        while (now := time.monotonic()) < begin + seconds:
            if now > kill:
                server.kill_child()
                ends["kills of the child"] += 1
                kill = now + draw.uniform(15, 60)
            if now > told + 60:
                told = now
                print(json.dumps({"requests": dict(ends), **server.figures()}), flush=True)
            print(
                f"\r{what}: {begin + seconds - now:5.0f} s left, {sum(ends.values())} requests", end="", file=sys.stderr
            )
            time.sleep(1)
    finally:
        stop.set()
        for thread in threads:
            thread.join(130)
        print(file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: ends with what it started
    draw, ends = random.Random(args.seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="glm-edge-soak-") as name, small_disk(Path(name) / "cache"):
        server = Server(Path(name))
        before, after, code, traceback = {}, {}, 1, False
        try:
            load(server, min(WARM_UP, 15 * args.minutes), draw, Counter(), "warm-up")
            before = server.settled()
            print(json.dumps({"begin": before}), flush=True)
            load(server, 60 * args.minutes, draw, ends, "soak")
        except KeyboardInterrupt:
            print("\nstopped early", file=sys.stderr)
        finally:
            after = server.settled(before)
            code, traceback = server.close()
    failed = leaks(before, after) + ["exit code"] * (code != 0) + ["traceback"] * traceback
    figures = {"seed": args.seed, "requests": dict(sorted(ends.items())), "begin": before, "end": after}
    print(json.dumps({**figures, "exit": code, "failed": failed}), flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
