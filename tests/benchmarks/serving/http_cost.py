"""What streaming through HTTP costs, against reading the same engine directly: milliseconds a token.

    python tests/benchmarks/serving/http_cost.py                    # the demo model, 1 and 4 streams at once
    python tests/benchmarks/serving/http_cost.py --model FILE --tokens 64 --pairs 5

Engine and server run in this process, as in `glm-edge serve --in-process`; the client is another process, which reads
events as they come and looks at nothing but their number. Direct and over HTTP take turns in one run, the first of a
pair being last in the next. A turn reads `streams` answers of exactly `tokens` tokens, greedy, end of text forbidden,
prompt lookup off. Its figure is the mean time between two tokens, from a stream's first text to its last, over all
streams; the cost is the median of the differences within pairs. A part of it is the client's own share of the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from glm_edge.cli.demo import demo_model
from glm_edge.engine.engine import LlamaEngine
from glm_edge.system.device import machine, processors
from glm_edge.types import Engine, EngineConfig, Message, Request, SamplingParams
from support.server.live_server import LiveServer, post

EOS = 2

# Reads lines of {"port", "data": [requests]} and answers each with [[first, last, events], …] by its own clock.
CLIENT = r"""
import json, socket, sys, threading, time
def read(port, data, out):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(data.encode())
        buffer, first, last, events = b"", 0.0, 0.0, 0
        while b"[DONE]" not in buffer:
            more = sock.recv(65536)
            if not more:
                break
            n = more.count(b'"delta":{"content":')
            if n:
                last = time.perf_counter()
                first = first or last
                events += n
            buffer = buffer[-16:] + more
        out.append([first, last, events])
for line in sys.stdin:
    asked, out = json.loads(line), []
    threads = [threading.Thread(target=read, args=(asked["port"], data, out)) for data in asked["data"]]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(json.dumps(out), flush=True)
"""


def question(stream: int) -> str:
    return f"请介绍一下你自己，第{stream}遍。"


def read_direct(engine: Engine, tokens: int, stream: int, out: list[float]) -> None:
    sampling = SamplingParams(0, logit_bias={EOS: -100.0})
    first = last = 0.0
    for chunk in engine.submit(Request((Message("user", question(stream)),), sampling, tokens)):
        if chunk.text and chunk.finish_reason is None:
            last = time.perf_counter()
            first = first or last
    out.append((last - first) / (tokens - 1))


def direct(engine: Engine, tokens: int, streams: int) -> float:
    """Milliseconds between two tokens."""
    out: list[float] = []
    threads = [threading.Thread(target=read_direct, args=(engine, tokens, i, out)) for i in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1e3 * statistics.mean(out)


def over_http(server: LiveServer, client: subprocess.Popen[str], tokens: int, streams: int) -> float:
    """Milliseconds between two tokens."""
    data = [
        post(
            {
                "messages": [{"role": "user", "content": question(i)}],
                "temperature": 0,
                "max_tokens": tokens,
                "logit_bias": {str(EOS): -100},
                "stream": True,
            }
        ).decode()
        for i in range(streams)
    ]
    if client.stdin is None or client.stdout is None:
        raise SystemExit("the client has no pipes")
    client.stdin.write(json.dumps({"port": server.port, "data": data}) + "\n")
    client.stdin.flush()
    read = json.loads(client.stdout.readline())
    if any(events < tokens / 2 for _, _, events in read):  # parts of a character come with its last token
        raise SystemExit(f"a stream ended early: {read}")
    return 1e3 * statistics.mean((last - first) / (tokens - 1) for first, last, _ in read)


def compare(server: LiveServer, client: subprocess.Popen[str], tokens: int, streams: int, pairs: int) -> dict[str, Any]:
    turns: dict[str, list[float]] = {"direct": [], "http": []}
    for number in range(-1, pairs):  # the first warms up
        for way in list(turns)[:: -1 if number % 2 else 1]:
            ms = (
                direct(server.engine, tokens, streams)
                if way == "direct"
                else over_http(server, client, tokens, streams)
            )
            if number >= 0:
                turns[way].append(ms)
    costs = sorted(http - own for own, http in zip(*turns.values(), strict=True))
    return {
        "streams": streams,
        "direct_ms": round(statistics.median(turns["direct"]), 4),
        "http_ms": round(statistics.median(turns["http"]), 4),
        "cost_ms": round(statistics.median(costs), 4),
        "cost_ms_quartiles": [round(costs[pairs // 4], 4), round(costs[-1 - pairs // 4], 4)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a GGUF file; the demo model without it")
    parser.add_argument("--tokens", type=int, default=200, help="of each answer")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, help="of the engine; as many as it takes by itself without it")
    options = parser.parse_args()
    model = options.model or demo_model()
    engine: Any = LlamaEngine(
        EngineConfig(model, n_threads=options.threads, slots=max(options.streams), prompt_lookup=False)
    )
    with (
        LiveServer(engine) as server,
        subprocess.Popen(
            [sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client,
    ):
        rows = [compare(server, client, options.tokens, n, options.pairs) for n in options.streams]
        if client.stdin is not None:
            client.stdin.close()
    print("streams      direct        HTTP        cost   (quartiles)")
    for row in rows:
        low, high = row["cost_ms_quartiles"]
        print(
            f"{row['streams']:7}  {row['direct_ms']:7.3f} ms  {row['http_ms']:7.3f} ms  {row['cost_ms']:7.3f} ms"
            f"   ({low:.3f} to {high:.3f})"
        )
    about = {"machine": machine(), "threads": options.threads or processors().best, "python": platform.python_version()}
    print(json.dumps({**about, "model": model.name, "tokens": options.tokens, "pairs": options.pairs, "http": rows}))


if __name__ == "__main__":
    main()
