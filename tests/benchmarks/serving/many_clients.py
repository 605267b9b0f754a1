"""Many clients at once: how many get their answer, how long it takes, and what those that are refused cost the others.

    python tests/benchmarks/serving/many_clients.py [--clients 200] [--hammers 400] [--rounds 5] [serve options]

Starts `glm-edge serve` with its defaults on a free port, with the demo model. First every client asks once through
openai-python as it comes (two retries, 600 s), all at the same moment. Then as many clients as there is capacity for
ask again and again over keep-alive connections, for --seconds, alone and beside --hammers that send requests without a
pause and ignore Retry-After, in turn for --rounds. Goodput is tokens of whole answers per second; the ratio is that of
the medians. The last line is JSON.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import openai

_SETTLE_S = 3.0


class Server:
    """`glm-edge serve` with its defaults and the given options, until closed."""

    def __init__(self, options: list[str]) -> None:
        command = [sys.executable, "-m", "glm_edge", "serve", "--port", "0", "--no-cache", *options]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "serving" in line:
                self.url = line.split(" at ")[1].split()[0]
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=self._process.stderr.read, daemon=True).start()
        self.port = int(self.url.rpartition(":")[2])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def body(tokens: int, n: int, turn: int = 0) -> dict[str, Any]:
    """No two requests have a prompt in common, so that each costs the same, alone and among many."""
    return {
        "messages": [{"role": "user", "content": f"{n}.{turn}: 你好，请写一个长故事。"}],
        "max_tokens": tokens,
        "logit_bias": {"2": -100},  # no end before the limit: every answer is the same work
    }


def ask_once(url: str, tokens: int, n: int, start: threading.Barrier, out: list[tuple[str, float]]) -> None:
    """One client as it comes from the registry."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused")
    start.wait()
    began = time.monotonic()
    try:
        client.chat.completions.create(model="chatglm2-6b", **body(tokens, n))
        result = "answered"
    except openai.APIStatusError as error:
        result = str(error.status_code)
    except openai.APIError as error:
        result = type(error).__name__
    out.append((result, time.monotonic() - began))


def all_at_once(url: str, clients: int, tokens: int) -> dict[str, Any]:
    out: list[tuple[str, float]] = []
    start = threading.Barrier(clients)
    threads = [threading.Thread(target=ask_once, args=(url, tokens, n, start, out)) for n in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = sorted(seconds for result, seconds in out if result == "answered")
    return {
        "clients": clients,
        "results": dict(Counter(result for result, _ in out)),
        "seconds": round(time.monotonic() - began, 1),
        "last_answer_s": round(times[-1], 1) if times else None,
    }


class Load:
    """Clients that ask again and again: good ones read their answers, hammers only count what they are told."""

    def __init__(self, port: int, tokens: int) -> None:
        self._port = port
        self._tokens = tokens
        self._stop = threading.Event()
        self.answered = 0
        self.statuses: Counter[int] = Counter()
        self._lock = threading.Lock()

    def run(self, good: int, hammers: int, seconds: float) -> float:
        """Answers' tokens per second."""
        threads = [threading.Thread(target=self._ask, args=(n, n >= good)) for n in range(good + hammers)]
        for thread in threads:
            thread.start()
        time.sleep(_SETTLE_S)
        with self._lock:
            before = self.answered
        began = time.monotonic()
        time.sleep(seconds)
        with self._lock:
            answered = self.answered - before
        rate = answered * self._tokens / (time.monotonic() - began)
        self._stop.set()
        for thread in threads:
            thread.join()
        return rate

    def _ask(self, n: int, hammer: bool) -> None:
        turns = itertools.count()
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
            with suppress(OSError, http.client.HTTPException):
                while not self._stop.is_set():
                    data = json.dumps(body(self._tokens, n, next(turns))).encode()
                    connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
                    response = connection.getresponse()
                    response.read()
                    with self._lock:
                        self.statuses[response.status] += 1
                        self.answered += response.status == 200
                    if response.status != 200 and not hammer:
                        self._stop.wait(float(response.headers.get("Retry-After", 1)))
            connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--hammers", type=int, default=400)
    parser.add_argument("--good", type=int, default=8, help="clients that ask again and again")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5, help="of each, alone and hammered")
    options, serve_options = parser.parse_known_args()
    result: dict[str, Any] = {}
    server = Server(serve_options)
    try:
        if options.clients:
            result["at_once"] = all_at_once(server.url, options.clients, options.tokens)
        rates: dict[str, list[float]] = {"alone": [], "hammered": []}
        statuses: Counter[int] = Counter()
        for number in range(2 * options.rounds):
            name = ("alone", "hammered")[number % 2]
            load = Load(server.port, options.tokens)
            hammers = options.hammers if name == "hammered" else 0
            rates[name].append(round(load.run(options.good, hammers, options.seconds), 1))
            statuses.update(load.statuses)
            print(f"{name}: {rates[name][-1]} tokens/s", file=sys.stderr)
    finally:
        server.close()
    alone, hammered = (statistics.median(rates[name]) for name in ("alone", "hammered"))
    result.update(rates, statuses=dict(statuses), goodput_ratio=round(hammered / alone, 2) if alone else None)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
