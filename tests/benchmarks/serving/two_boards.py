"""One model on two boards that it does not fit into: two network namespaces, each with a memory limit of its own.

    python tests/benchmarks/serving/two_boards.py MODEL.gguf [--limit 2.6] [--tokens 24]    # root on Linux

One runs `glm-edge rpc-server`, the other `glm-edge serve --rpc`; both with the runtime of this Python, which must be
the portable one. A greedy answer is asked for, and once from a server without a limit and without help. Then the
helper is killed in the middle of an answer, and started again. Prints JSON: whether the texts are equal, tokens a
second, bytes over the wire for each token of prompt and answer, memory of both, and what the client was told.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PORT = 50052
_SERVER, _HELPER = "glm-edge-server", "glm-edge-helper"  # namespaces and cgroups
_HOST = {_SERVER: "10.99.0.1", _HELPER: "10.99.0.2"}
_CGROUPS = Path("/sys/fs/cgroup")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def within(board: str) -> list[str]:
    """What a command begins with that runs on a board: not `ip netns exec`, which hides the cgroups."""
    return ["nsenter", f"--net=/run/netns/{board}"]


@contextlib.contextmanager
def boards(limit: int) -> Iterator[dict[str, Path]]:
    """Two namespaces with a wire between them; the folders of their cgroups."""
    unified = (_CGROUPS / "cgroup.controllers").exists()
    folders = {}
    try:
        for name in _HOST:
            ip("netns", "add", name)
            folders[name] = (_CGROUPS if unified else _CGROUPS / "memory") / name
            folders[name].mkdir()
            (folders[name] / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(str(limit))
        ip("link", "add", "wire", "netns", _SERVER, "type", "veth", "peer", "name", "wire", "netns", _HELPER)
        for name, host in _HOST.items():
            ip("-n", name, "address", "add", f"{host}/24", "dev", "wire")
            for device in ("lo", "wire"):
                ip("-n", name, "link", "set", device, "up")
        yield folders
    finally:
        for name, folder in folders.items():
            while folder.joinpath("cgroup.procs").read_text():  # the engine's process ends after the server's
                time.sleep(0.1)
            folder.rmdir()
            ip("netns", "delete", name)


@contextlib.contextmanager
def running(board: str, folder: Path, *command: str, until: str) -> Iterator[subprocess.Popen[str]]:
    """A glm-edge in a board, once it has said something that fits `until`."""
    words = [*within(board), sys.executable, "-m", "glm_edge", *command]
    inside = lambda: (folder / "cgroup.procs").write_text(str(os.getpid()))  # noqa: E731
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=inside) as process:  # noqa: PLW1509
        assert process.stderr is not None
        try:
            said = ""
            for line in process.stderr:
                said = line
                if re.search(until, line):
                    break
            else:
                raise SystemExit(f"{command[0]}: {said}")
            yield process
        finally:
            process.kill()


def peak(folder: Path) -> float:
    """The most memory that a board has used, in GiB."""
    names = ("memory.peak", "memory.max_usage_in_bytes")
    found = next((folder / name for name in names if (folder / name).exists()), None)
    return round(int(found.read_text()) / (1 << 30), 2) if found else 0.0


def wire() -> int:
    """Bytes that went over it, both ways."""
    told = subprocess.run(["ip", "-n", _SERVER, "-s", "-j", "link", "show", "wire"], capture_output=True, check=True)
    stats = json.loads(told.stdout)[0]["stats64"]
    return int(stats["rx"]["bytes"]) + int(stats["tx"]["bytes"])


def curl(text: str, tokens: int, *, stream: bool = False) -> list[str]:
    """The command that asks the server, from its own board."""
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": tokens, "stream": stream}
    command = [*within(_SERVER), "curl", "-sN", "-m", "600", "http://127.0.0.1:8000/v1/chat/completions"]
    return [*command, "-H", "Content-Type: application/json", "-d", json.dumps(body)]


def ask(text: str, tokens: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(subprocess.run(curl(text, tokens), capture_output=True, check=True).stdout)
    return found


def told_when_killed(helper: subprocess.Popen[str], question: str) -> str:
    """What a client gets last whose answer is being written when the helper is killed."""
    with subprocess.Popen(curl(question, 200, stream=True), stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        events = (line for line in client.stdout if line.startswith("data: "))
        for _ in range(3):
            next(events)
        helper.kill()
        return [*events][-1].strip()


def seconds_until_answered(question: str) -> float:
    begin = time.monotonic()
    while "choices" not in ask(question, 1):
        time.sleep(0.5)
    return round(time.monotonic() - begin, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--limit", type=float, default=2.6, help="GiB of memory of each board")
    parser.add_argument("--tokens", type=int, default=24)
    args = parser.parse_args()
    question, result = "请介绍一下你自己。", {}
    serve = ("serve", "--model", args.model, "--no-cache", "--slots", "1", "--ctx", "1024")
    rpc = (*serve, "--rpc", f"{_HOST[_HELPER]}:{_PORT}={args.limit - 0.5}")
    helper = ("rpc-server", "--listen", f"{_HOST[_HELPER]}:{_PORT}")
    with boards(64 << 30) as folders, running(_SERVER, folders[_SERVER], *serve, until="serving"):
        alone = ask(question, args.tokens)["choices"][0]["message"]["content"]
    with boards(int(args.limit * (1 << 30))) as folders, contextlib.ExitStack() as stack:
        other = stack.enter_context(running(_HELPER, folders[_HELPER], *helper, until="computing at"))
        time.sleep(2)  # until it listens
        begin, before = time.monotonic(), wire()
        stack.enter_context(running(_SERVER, folders[_SERVER], *rpc, until="serving"))
        result |= {"load_s": round(time.monotonic() - begin, 1), "load_mb": (wire() - before) // 1_000_000}
        before = wire()
        answer = ask(question, args.tokens)
        usage, figures = answer["usage"], answer["glm_edge"]
        result |= {
            "equal": answer["choices"][0]["message"]["content"] == alone,
            "decode_tokens_s": round(1000 * (usage["completion_tokens"] - 1) / figures["decode_ms"], 2),
            "prefill_tokens_s": round(1000 * usage["prompt_tokens"] / figures["prefill_ms"], 2),
            "wire_bytes_a_token": (wire() - before) // usage["total_tokens"],
            "peak_gib": [peak(folders[name]) for name in _HOST],
            "told_when_killed": told_when_killed(other, question),
        }
        stack.enter_context(running(_HELPER, folders[_HELPER], *helper, until="computing at"))
        result["answers_again_after_s"] = seconds_until_answered(question)
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
