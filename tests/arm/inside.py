"""What is shown inside of a small system: a bundle is installed, converts, answers, serves, and goes again.

    inside.py record    on the machine that makes the systems: what its own glm-edge converts to, answers and computes
    inside.py prove     in a system without a network and a compiler: the bundle gives the same
    inside.py refuse    in a system with an old Python: install.sh says so in one line

Run by `run`, which puts `program.py`, the folders `bundle`, `demo` and `prefixes` and the files prompts.jsonl and
expected.json beside it. Every step prints what it showed, its minutes and how much it left on the disk, and adds a line
to results.jsonl. Text at f16 takes five times as long as at q4_0 in emulation, which converts weight by weight.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from program import (
    CASES,
    DEMO,
    HELLO,
    HERE,
    MODELS,
    PATIENCE,
    PREFIXES,
    SYSTEM,
    TYPES,
    Failed,
    answers,
    check,
    command,
    convert_all,
    greedy,
    post,
    serving,
    warm,
)

BUNDLE, EXPECTED, RESULTS = (HERE / name for name in ("bundle", "expected.json", "results.jsonl"))
ASKED = ("f16", "q4_0", "edge")  # types whose answers are compared
COMPILERS = ("cc", "gcc", "c++", "g++", "clang", "make", "cmake", "ninja", "zig")


# The steps: each returns what it showed, or raises Failed


def system() -> str:
    found = [name for name in COMPILERS if shutil.which(name)]
    check(not found, f"there are compilers: {', '.join(found)}")
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=5).close()
        raise Failed("there is a network")
    except OSError as error:
        no_network = error.strerror or str(error)
    name = re.search(r'^PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text("utf-8"), re.MULTILINE)
    cpu = f", as {os.environ['QEMU_CPU']}" if "QEMU_CPU" in os.environ else ""
    return (
        f"{name[1] if name else '?'}, {platform.machine()}{cpu}, Python {platform.python_version()},"
        f" user {os.getuid()}; no compiler; no network ({no_network})"
    )


def install() -> str:
    command("sh", str(BUNDLE / "install.sh"))
    return command("glm-edge", "--version").strip()


def chat() -> str:
    said = command("glm-edge", "chat", "--temperature", "0", "--prompt", HELLO).strip()
    wanted = next(case["answer"] for case in CASES if case["prompt"] == HELLO)
    check(said == wanted, f"said {said!r} instead of {wanted!r}")
    return said


def doctor() -> str:
    """It says that a chat will work, and which types fit; in emulation it has no time to measure how fast."""
    found = json.loads(command("glm-edge", "doctor", "--json"))
    check(found["ok"], f"doctor: {found['next']}")
    said = {finding["topic"]: finding["text"] for finding in found["findings"]}
    return "; ".join(said[topic] for topic in ("types", "runtime", "kernels") if topic in said)


def convert() -> str:
    wanted = json.loads(EXPECTED.read_text("utf-8"))["hashes"]
    found = convert_all()
    differ = [name for name in TYPES if found[name] != wanted[name]]
    check(not differ, f"other bytes: {', '.join(differ)}")
    return f"the bytes of x86: {', '.join(TYPES)}"


def verify() -> str:
    for name in TYPES:
        command("glm-edge", "verify", str(MODELS / f"{name}.gguf"), "--sources", str(DEMO))
    return f"{len(TYPES)} files pass"


def text(name: str) -> str:
    """Every prompt as it was taught at f16; at 4 bits the text of x86, where rounding decides an answer or two."""
    there = json.loads(EXPECTED.read_text("utf-8"))["answers"][name]
    here = answers(name)
    right = sum(said == case["answer"] for said, case in zip(here, CASES, strict=True))
    same = sum(a == b for a, b in zip(here, there, strict=True))
    least = len(CASES) if name == "f16" else 0.95 * len(CASES)
    check(same >= least, f"{name}: {same} of {len(CASES)} answers are those of x86")
    return f"{len(CASES)} prompts: {right} answered as taught, {same} as on x86"


def prefixes() -> str:
    """What another processor computed comes with the model and is used."""
    beside = MODELS / "q8_0.gguf.prefixes"
    shutil.copytree(PREFIXES, beside)
    body = {"messages": [{"role": "system", "content": SYSTEM}, *greedy(HELLO)["messages"]], "temperature": 0}
    with serving("q8_0") as address:
        status, said = post(address, body | {"max_tokens": 8})
    shutil.rmtree(beside)
    check(status == 200, f"status {status}: {said.decode()}")
    usage = json.loads(said)["usage"]
    cached, tokens = usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]
    check(tokens - cached < 128, f"{cached} of {tokens} tokens were there")
    return f"{cached} of {tokens} tokens were there"


def variants() -> set[str]:
    """What llama.cpp's libraries for a kind of processor are made for, of those that running programs have loaded."""
    found: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # it has ended
            found |= set(re.findall(r"libggml-cpu-(\S+)\.so", maps.read_text("utf-8", "replace")))
    return found


def http() -> str:
    """A chat, a stream and errors, as OpenAI's contract has them."""
    wanted = next(case["answer"] for case in CASES if case["prompt"] == HELLO)
    with serving("q8_0") as address:
        loaded, variant = variants(), os.environ.get("VARIANT")
        check(variant is None or loaded == {variant}, f"{loaded} is loaded, not {variant}")
        status, body = post(address, greedy(HELLO))
        whole = json.loads(body)
        check(status == 200 and whole["choices"][0]["message"]["content"] == wanted, f"chat: {status} {body.decode()}")
        usage = whole["usage"]
        check(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"], f"usage: {usage}")

        status, body = post(address, greedy(HELLO, stream=True))
        events = [line[len("data: ") :] for line in body.decode().splitlines() if line.startswith("data: ")]
        check(status == 200 and events[-1] == "[DONE]", f"stream: {status} {events[-1:]}")
        deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
        said = "".join(delta.get("content") or "" for delta in deltas)
        check(deltas[0].get("role") == "assistant" and said == wanted, f"stream: said {said!r}")

        for name, bad, expected in (
            ("no messages", {"messages": []}, 400),
            ("temperature 9", greedy(HELLO) | {"temperature": 9}, 400),
            ("another model", greedy(HELLO, model="gpt-4"), 404),
        ):
            status, body = post(address, bad)
            keys = set(json.loads(body)["error"])
            check(status == expected and keys == {"message", "type", "param", "code"}, f"{name}: {status} {keys}")
        with urllib.request.urlopen(f"{address}/health", timeout=PATIENCE) as response:
            check(response.status == 200, f"health: {response.status}")
    shown = f"chat, stream of {len(events)} events, 3 errors, health, end by SIGTERM"
    return f"{', '.join(sorted(loaded))} is loaded; {shown}"


def rpc() -> str:
    """The model's last layers in another process, which stands for another machine: the same text."""
    address = "127.0.0.1:50052"
    with subprocess.Popen(["glm-edge", "rpc-server", "--listen", address], stderr=subprocess.PIPE, text=True) as other:
        assert other.stderr is not None
        try:
            said = next((line for line in other.stderr if "computing at" in line), "")
            check(bool(said), "rpc-server: said nothing")
            connected: list[str] = []
            threading.Thread(target=connected.extend, args=(other.stderr,), daemon=True).start()
            while not _listens(50052):
                check(other.poll() is None, f"rpc-server: ended with {other.poll()}")
                time.sleep(0.1)
            with serving("q8_0", "--no-cache", "--rpc", f"{address}=1") as server:
                for case in CASES[:3]:
                    status, body = post(server, greedy(case["prompt"]))
                    text = json.loads(body)["choices"][0]["message"]["content"]
                    check((status, text) == (200, case["answer"]), f"{status} {body.decode()}")
            times = sum("Accepted" in line for line in connected)
            check(times > 2, f"it connected {times} times, twice to look, so no layer was computed there")
        finally:
            other.terminate()
    return "3 prompts: the text of one machine"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def upgrade() -> str:
    """install.sh over an installation."""
    command("sh", str(BUNDLE / "install.sh"))
    return chat()


def uninstall() -> str:
    command("sh", str(BUNDLE / "uninstall.sh"))
    left = [str(path) for path in Path.home().rglob("*") if not path.is_dir() or path.is_symlink()]
    check(not left, f"left behind: {', '.join(left)}")
    return "no file is left"


def refuse() -> str:
    done = subprocess.run(["sh", str(BUNDLE / "install.sh")], capture_output=True, encoding="utf-8", check=False)
    said = done.stderr.splitlines()
    check(done.returncode != 0, "it was installed")
    check(len(said) == 1 and "Python 3.1" in said[0], f"said {said}")
    check(not size_of(Path.home()), "left files behind")
    return f"Python {platform.python_version()}: {said[0]}"


PROOF: list[tuple[str, Callable[[], str]]] = [
    ("system", system),
    ("install", install),
    ("first chat", chat),
    ("doctor", doctor),
    ("convert, 10 types", convert),
    ("verify", verify),
    *((f"text at {name}", lambda name=name: text(name)) for name in ASKED),
    ("bundled prefixes", prefixes),
    ("HTTP", http),
    ("RPC", rpc),
    ("upgrade", upgrade),
    ("uninstall", uninstall),
]


def size_of(folder: Path) -> int:
    files = (Path(at) / name for at, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in files)


def run(steps: list[tuple[str, Callable[[], str]]]) -> int:
    """Run the steps, later ones too where one failed, but none without an installation; returns how many failed."""
    failed = 0
    for name, step in steps:
        began = time.monotonic()
        try:
            shown, ok = step(), True
        except (Failed, OSError, ValueError, KeyError) as error:
            shown, ok = str(error) or repr(error), False
            failed += 1
        minutes = (time.monotonic() - began) / 60
        megabytes = size_of(Path.home()) / 1e6
        print(f"{name:18} {'ok    ' if ok else 'FAILED'} {minutes:5.1f} min {megabytes:6.1f} MB  {shown}", flush=True)
        with open(RESULTS, "a", encoding="utf-8") as file:
            row = {"step": name, "ok": ok, "minutes": minutes, "megabytes": megabytes, "shown": shown}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if step is install and not ok:
            break
    return failed


def main(what: str) -> int:
    if what == "record":
        record = {"hashes": convert_all(), "answers": {name: answers(name) for name in ASKED}}
        EXPECTED.write_text(json.dumps(record, ensure_ascii=False), "utf-8")
        warm()
        return 0
    return 1 if run(PROOF if what == "prove" else [("refused", refuse)]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
