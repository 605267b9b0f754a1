"""GLM Edge beside another server with OpenAI's API, on the same file, in turn: the figures that a client sees.

    python tests/benchmarks/serving/beside.py MODEL [--rounds 3] [--ctx 8192] [--threads 2] -- COMMAND...

COMMAND starts the other server, `{model}`, `{port}`, `{ctx}` and `{threads}` filled in, such as
`llama-server -m {model} --port {port} -c {ctx} -t {threads} -np 4`. Each server is alone on the machine while it is
measured, because two would share its memory. Greedy, answers of --tokens tokens, through streams:

    first_s: from a question of about 85 tokens to its first text; the server has seen one other question before
    decode: tokens a second after the first text
    second_s: the same of a second question in that conversation
    four: tokens a second of 4 clients at once, each with a question of its own, from the start to the last answer's end
    worst_s: the latest first text among those 4
    peak_gb: memory that the server's processes had at most, together (Linux)

Prints a line for each round, then a line of JSON: medians, and their ratios to the other server's.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import shlex
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

_OURS = "{python} -m glm_edge serve --model {model} --port {port} --ctx {ctx} --threads {threads} --no-cache --slots 4"
_START_S, _REQUEST_S = 300.0, 600.0
_DIGITS = 68  # with the round's words, about 85 tokens: a digit is a token


@contextmanager
def server(command: str, values: dict[str, object]) -> Iterator[tuple[int, int]]:
    """Its port and process id, once it is ready; ends it afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words = [word.format(port=port, python=sys.executable, **values) for word in shlex.split(command)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + _START_S
        while not ready(port):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{words[0]} did not start: {shlex.join(words)}")
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def peak(pid: int) -> float:
    """GB that a process and its children have had at most; 0 where the system does not tell."""
    process = psutil.Process(pid)
    files = [Path(f"/proc/{one.pid}/status") for one in (process, *process.children(recursive=True))]
    found = [re.search(r"VmHWM:\s+(\d+)", file.read_text()) for file in files if file.exists()]
    return sum(int(one[1]) for one in found if one) * 1024 / 1e9


def question(seed: int) -> dict[str, str]:
    digits = random.Random(seed)
    return {"role": "user", "content": "".join(digits.choice("0123456789") for _ in range(_DIGITS))}


def ask(port: int, messages: list[dict[str, str]], tokens: int) -> tuple[float, float, int, str]:
    """Seconds to the first text and to the end, tokens of the answer, and its text."""
    body = {
        "model": "chatglm2-6b",
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logit_bias": {"2": -100},  # no end before the limit: every answer is the same work
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_REQUEST_S)
    began = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"status {response.status}: {response.read(500)!r}")
    first, text, used = 0.0, "", 0
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        delta = event["choices"][0]["delta"].get("content") if event.get("choices") else None
        if delta:
            first = first or time.monotonic() - began
            text += delta
        used = (event.get("usage") or {}).get("completion_tokens", used)
    connection.close()
    return first or time.monotonic() - began, time.monotonic() - began, used, text


def measure(port: int, tokens: int, seed: int) -> dict[str, float]:
    ask(port, [question(seed)], 4)
    conversation = [question(seed + 1)]
    first, whole, used, text = ask(port, conversation, tokens)
    said = text.replace("\0", "") or "1"  # NUL is refused, and so is an empty answer
    conversation += [{"role": "assistant", "content": said}, question(seed + 2)]
    second, *_ = ask(port, conversation, tokens)
    results: list[tuple[float, float, int, str]] = []
    clients = [
        threading.Thread(target=lambda n=n: results.append(ask(port, [question(seed + 3 + n)], tokens)))
        for n in range(4)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return {
        "first_s": first,
        "decode": (used - 1) / (whole - first),
        "second_s": second,
        "four": sum(result[2] for result in results) / max(result[1] for result in results),
        "worst_s": max(result[0] for result in results),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("command", nargs="+", help="of the other server")
    parser.add_argument("--ours", default=_OURS, help="the command of ours [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ctx", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32)
    args = parser.parse_args()
    values: dict[str, object] = {"model": args.model, "ctx": args.ctx, "threads": args.threads}
    commands = {"other": shlex.join(args.command), "ours": args.ours}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for number in range(args.rounds):
        for name, command in commands.items():
            with server(command, values) as (port, pid):
                found[name].append(measure(port, args.tokens, 10 * number) | {"peak_gb": peak(pid)})
            figures = ", ".join(f"{key} {value:.2f}" for key, value in found[name][-1].items())
            print(f"{name}: {figures}", file=sys.stderr, flush=True)
    result: dict[str, Any] = {
        name: {key: round(statistics.median(one[key] for one in rounds), 3) for key in rounds[0]}
        for name, rounds in found.items()
    }
    result["ratio"] = {key: round(result["ours"][key] / result["other"][key], 3) for key in result["ours"]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
