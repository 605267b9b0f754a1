"""How long a one-token chat takes while others send long texts of characters that tokenizers are slow at.

    python tests/benchmarks/attacks/tokenize.py MODEL.gguf --program PATH/TO/glm-edge

Starts `glm-edge serve` of any version and asks it over HTTP alone. 0.8 and 1.8 MB of newlines, tabs, emoji and rare
characters go to /v1/tokenize, /v1/completions and chat, all 24 at once; one chat after the other runs beside them. A
model with the real vocabulary and tiny weights will do: `make_checkpoint.py OUT --tokenizer FILE`, then `convert`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import threading
import time
from collections import Counter
from typing import Any

CHARACTERS = {"newlines": "\n", "tabs": "\t", "emoji": "😀", "rare": "\U00020000"}
SIZES = (800_000, 1_800_000)  # bytes of the text in JSON, where a newline takes two
PATHS = ("/v1/tokenize", "/v1/completions", "/v1/chat/completions")


def encoded(path: str, text: str) -> bytes:
    content: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
    if path == "/v1/tokenize":
        content = {"text": text}
    elif path == "/v1/completions":
        content = {"prompt": text, "max_tokens": 1}
    return json.dumps(content, ensure_ascii=False).encode()


def ask(port: int, path: str, data: bytes, timeout: float = 600) -> tuple[str, float]:
    """(status or error, seconds)"""
    began = time.monotonic()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        outcome = str(response.status)
        connection.close()
    except OSError as error:
        outcome = type(error).__name__
    return outcome, time.monotonic() - began


def ready(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


def attack(port: int) -> tuple[list[tuple[str, float]], list[tuple[str, str, float]]]:
    """The chats that ran beside it (status, seconds), and the attack's own requests (path, status, seconds)."""
    bodies = []
    for character in CHARACTERS.values():
        width = len(json.dumps(character, ensure_ascii=False).encode()) - 2
        bodies += [(path, encoded(path, character * (size // width))) for path in PATHS for size in SIZES]
    chat = encoded(PATHS[2], "hello")
    sent: list[tuple[str, str, float]] = []

    def send(path: str, data: bytes) -> None:
        sent.append((path, *ask(port, path, data)))

    threads = [threading.Thread(target=send, args=one) for one in bodies]
    for thread in threads:
        thread.start()
    chats = []
    while any(thread.is_alive() for thread in threads):
        chats.append(ask(port, PATHS[2], chat))
        time.sleep(0.05)
    return chats, sent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--program", default="glm-edge")
    parser.add_argument("--slots", type=int, default=4)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [options.program, "serve", "--model", options.model, "--port", str(port), "--slots", str(options.slots)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log: list[str] = []
    threading.Thread(target=lambda: log.extend(server.stderr or ()), daemon=True).start()
    try:
        while not ready(port):
            if server.poll() is not None:
                raise SystemExit("".join(log))
            time.sleep(0.1)
        alone = [ask(port, PATHS[2], encoded(PATHS[2], "hello"))[1] for _ in range(30)]
        began = time.monotonic()
        chats, sent = attack(port)
        took = time.monotonic() - began
    finally:
        server.terminate()
        server.wait()
    figures = {
        "alone_median_s": round(statistics.median(alone), 3),
        "alone_max_s": round(max(alone), 3),
        "beside_median_s": round(statistics.median(seconds for _, seconds in chats), 3),
        "beside_max_s": round(max(seconds for _, seconds in chats), 3),
        "beside": Counter(status for status, _ in chats),
        "attack_s": round(took, 1),
        "attack": {path: Counter(status for p, status, _ in sent if p == path) for path in PATHS},
        "attack_max_s": {path: round(max(s for p, _, s in sent if p == path), 1) for path in PATHS},
        "engine_restarts": sum("is started again" in line for line in log),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
