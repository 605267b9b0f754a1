"""The project as its users use it, by the command and over HTTP, with the demo's checkpoint. It needs Python alone.

Not here: what is shown with it (`inside.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DEMO, MODELS, PREFIXES = HERE / "demo", HERE / "models", HERE / "prefixes"
TYPES = ("f16", "q8_0", "q4_0", "q4_k_m", "q5_k_m", "q6_k", "q3_k_m", "iq4_nl", "edge", "edge-arm")
CASES = [json.loads(line) for line in (HERE / "prompts.jsonl").read_bytes().split(b"\n") if line]
HELLO = "你好"
SYSTEM = "Answer in one short sentence. " * 40  # long enough for a file
PATIENCE = 300  # seconds for one answer: emulation takes its time


class Failed(Exception):
    """A step that did not show what it should."""


def check(condition: object, what: str) -> None:
    if not condition:
        raise Failed(what)


def command(*arguments: str) -> str:
    """What a command prints on stdout. Raises Failed with its last line where it fails."""
    done = subprocess.run(arguments, capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL, check=False)
    said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
    check(done.returncode == 0, f"{' '.join(arguments)}: ended with {done.returncode}: {said[-1]}")
    return done.stdout


def convert_all() -> dict[str, str]:
    """The SHA-256 of the demo's file of each type."""
    MODELS.mkdir(exist_ok=True)
    found = {}
    for name in TYPES:
        path = MODELS / f"{name}.gguf"
        command("glm-edge", "convert", str(DEMO), "--type", name, "--out", str(path), "--force")
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@contextlib.contextmanager
def serving(name: str, *options: str) -> Iterator[str]:
    """The address of a server of the demo's file of a type; it is ended, and has to end well."""
    arguments = ["glm-edge", "serve", "--model", str(MODELS / f"{name}.gguf"), "--port", "0", *options]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, encoding="utf-8") as server:
        assert server.stderr is not None
        try:
            said = []
            for line in server.stderr:
                said.append(line.strip())
                if match := re.search(r"serving .* at (http://[\d.]+:\d+)", line):
                    break
            else:
                raise Failed(f"serve: {said[-1] if said else 'said nothing'}")
            threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop it
            yield match[1]
        finally:
            server.send_signal(signal.SIGTERM)
        check(server.wait(PATIENCE) == 0, f"serve: ended with {server.returncode} after SIGTERM")


def post(address: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body of a chat."""
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def greedy(prompt: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 100, **more}


def answers(name: str) -> list[str]:
    """The greedy answers of the demo's file of a type to the demo's prompts."""
    found = []
    with serving(name) as address:
        for case in CASES:
            status, body = post(address, greedy(case["prompt"]))
            check(status == 200, f"{case['prompt']}: status {status}: {body.decode()}")
            found.append(json.loads(body)["choices"][0]["message"]["content"])
    return found


def warm() -> None:
    """Compute SYSTEM with the demo's file of q8_0 for the folder `prefixes`."""
    prompts = HERE / "warm.jsonl"
    prompts.write_text(json.dumps({"system": SYSTEM}), "utf-8")
    command("glm-edge", "warm", "--model", str(MODELS / "q8_0.gguf"), "--prompts", str(prompts))
    (MODELS / "q8_0.gguf.prefixes").rename(PREFIXES)
