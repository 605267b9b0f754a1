"""The attacks on a server and its commands that sockets and a shell can show, against any version of the program.

    python tests/benchmarks/attacks/group_n.py --python PATH_OF_A_PYTHON_WITH_GLM_EDGE
    python tests/benchmarks/attacks/group_n.py --python venv/bin/python --rows N1,N4,slash

One function a row; the letters are those of the tests' markers. Prints for each `held` or `FAILED` with what was seen.
Exit code 1 if one failed. Runs on the demo model, in temporary folders.
N13 tells only whether the slow reader has made room for another's chat after 100 s.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).resolve().parents[2]))

from support.server.victim import Place, get, post

Result = tuple[bool, str]  # (whether it held, what was seen)
LONG_STORY = {
    "messages": [{"role": "user", "content": "讲一个很长的故事"}],
    "logit_bias": {"2": -100},
}  # without an end
SHORT = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}


def n1(place: Place) -> Result:
    """Long texts of characters that tokenizers are slow at, to three paths; one-token chats beside them."""
    with place.serving("--slots", "8") as target:
        alone = max(target.ask(post(SHORT))[1] for _ in range(3))
        texts = [character * 400_000 for character in ("\n", "\t", "😀", "\U00020000")]
        attacks = [post({"text": text}, "/v1/tokenize") for text in texts]
        attacks += [post({"prompt": text, "max_tokens": 1}, "/v1/completions") for text in texts]
        attacks += [post({**SHORT, "messages": [{"role": "user", "content": text}]}) for text in texts]
        threads = [threading.Thread(target=target.ask, args=(data,)) for data in attacks]
        for thread in threads:
            thread.start()
        waits: list[tuple[int, float]] = []
        while not waits or any(thread.is_alive() for thread in threads):
            waits.append(target.ask(post(SHORT))[:2])
            time.sleep(0.2)
        worst = max(seconds for _, seconds in waits)
        dead = "started again" in target.text()
        answered = sum(status == 200 for status, _ in waits)
        seen = f"alone {alone:.2f} s, worst beside {worst:.2f} s, {answered} of {len(waits)} answered, death: {dead}"
        return worst < alone + 1 and not dead and answered > 0, seen


def n2(place: Place) -> Result:
    """Pipes, devices, folders and endless files as the files of options; a cache folder that others write."""
    pipe, endless = place.folder / "pipe", place.folder / "endless"
    os.mkfifo(pipe)
    endless.touch()
    os.truncate(endless, 1 << 40)
    codes = {}
    for path in (str(pipe), "/dev/zero", str(place.folder), str(endless)):
        for verb, *options in (("serve", "--port", "0", "--api-key-file", path), ("perplexity", path)):
            code, _, err = place.command(verb, *options, seconds=20)
            codes[f"{verb} {Path(path).name}"] = (code, err.count("\nerror: ") + err.startswith("error: "))
    cache = place.folder / "cache" / "glm-edge" / "prefixes"
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o777)
    before = set(cache.iterdir())
    with place.serving() as target:
        target.ask(post({**SHORT, "messages": [{"role": "user", "content": "再说一遍。" * 60}]}))
        said = str(cache) in target.text()
    bad = {name: code for name, code in codes.items() if code[0] not in (3, 6) or code[1] != 1}
    left = set(cache.iterdir()) - before
    return not bad and said and not left, f"not refused in a line: {bad or 'none'}; cache of others said: {said}"


def n4(place: Place) -> Result:
    """Chunks that two programs could read differently, with a request behind each."""
    data = json.dumps(SHORT).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    size = b"%x" % len(data)
    whole = size + b"\r\n" + data + b"\r\n"
    bodies = [size + b"\n" + data + b"\r\n0\r\n\r\n", size + b";a\n\r\n" + data + b"\r\n0\r\n\r\n"]
    bodies += [size + b';a="b\nc"\r\n' + data + b"\r\n0\r\n\r\n", size + b"\r\n" + data + b"\n0\r\n\r\n"]
    ends = (b"0\n\r\n", b"0\n\n", b"0\r\n\n", b"0\r\nT: x\n\n", b"0\r\nGET /x HTTP/1.1\r\n\r\n", b"0\r\nT: \0\r\n\r\n")
    bodies += [whole + end for end in (*ends, b"0\r\nContent-Length: 5\r\n\r\n", b"0\r\nHost: x\r\n\r\n")]
    with place.serving() as target:
        taken = []
        for body in bodies:
            status, _, text = target.ask(head + body + get("/livez"))
            if status != 400 or text.count(b"HTTP/1.1 ") != 1:
                taken.append(body.replace(data, b"DATA"))
    return not taken, f"{len(bodies) - len(taken)} of {len(bodies)} refused; taken: {taken}"


def n5(place: Place) -> Result:
    """Little memory."""
    bad = []
    for limit in range(60, 401, 68):
        for verb, *options in (("serve", "--port", "0", "--no-cache"), ("chat", "--no-cache", "--prompt", "a")):
            code, _, err = place.command(verb, *options, prefix=f"ulimit -c 0; ulimit -v {limit}000;", seconds=30)
            if code not in ((7, 0) if verb == "chat" else (7,)) or (code and err.count("\n") != 1):
                bad.append((verb, limit, code))
    return not bad, f"not one line and 7: {bad or 'none'}"


def n7(place: Place) -> Result:
    """A folder of someone where `pull` would work, and no hub."""
    mine = place.folder / "x.gguf.pull" / "photo"
    mine.parent.mkdir()
    mine.write_text("mine")
    hub = "export HF_ENDPOINT=http://127.0.0.1:9;"
    code = place.command("pull", "THUDM/chatglm2-6b", "--out", str(place.folder / "x.gguf"), prefix=hub)[0]
    there = mine.exists() and mine.read_text() == "mine"
    return there and code != 0, f"the file of someone is {'there' if there else 'GONE'}, exit code {code}"


def n8(place: Place) -> Result:
    with place.serving() as target:
        status = target.ask(post({**SHORT, "logit_bias": {"5": 1, "05": -1}}))[0]
    return status == 400, f"status {status}"


def n9(place: Place) -> Result:
    """Key B probes key A's prompt, guess by guess."""
    secret = "".join(f"苹果{number}" for number in range(120))
    ask: dict[str, list[int]] = {"A": [], "B": []}
    with place.serving("--api-key=A", "--api-key=B", "--ctx=2048") as target:
        for key, text in (("A", secret), ("A", secret + "还有"), ("B", secret), ("B", secret[:300])):
            body = {**SHORT, "messages": [{"role": "user", "content": text}]}
            reply = target.ask(post(body, "/v1/chat/completions", f"API-KEY: {key}"))[2]
            ask[key].append(int((re.findall(rb'"cached_tokens": ?(\d+)', reply) or [b"-1"])[0]))
    return 0 <= ask["B"][0] < 20 < ask["A"][1], f"cached tokens: A's own {ask['A'][1]}, B's first guess {ask['B'][0]}"


def n11(place: Place) -> Result:
    """Two requests at once, then gone."""
    with place.serving() as target:
        with target.connect() as sock:
            sock.sendall(post(LONG_STORY) * 2)
            end = time.monotonic() + 5
            while not target.running():
                if time.monotonic() > end:
                    return False, "the answer ended too soon to tell"
        begin = time.monotonic()
        held = target.idle_within(2.5)
        return held, f"computing {'ended' if held else 'went on'} {time.monotonic() - begin:.1f} s after the leaving"


def n13(place: Place) -> Result:
    """A reader of one byte every 5 s: it has the only place but for a while."""
    with place.serving("--slots", "1") as target, target.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sock.sendall(
            post({**LONG_STORY, "stream": True, "logprobs": True, "top_logprobs": 20})
        )  # more than buffers hold
        begin = time.monotonic()
        waited: list[float] = []
        while time.monotonic() < begin + 100 and not waited:
            sock.recv(1)
            status, seconds, _ = target.ask(post(SHORT), 5)
            waited += [time.monotonic() - begin] if status == 200 and seconds < 5 else []
            time.sleep(5)
        return bool(waited), f"another's chat was answered after {waited[0]:.0f} s" if waited else "no answer in 100 s"


def n14(place: Place) -> Result:
    """Connections without a request, in thousands."""
    seen = []
    with place.serving(prefix="ulimit -n 4096 2>/dev/null;") as target:
        for clients, data in (
            (2000, b"GET /livez HTTP/1.1\r\nX"),
            (1500, get("/livez").replace(b"close", b"keep-alive")),
        ):
            with ExitStack() as stack:
                for _ in range(clients):
                    with contextlib.suppress(OSError):
                        stack.enter_context(target.connect(5)).sendall(data)
                seen += [target.ask(data, 10)[:2] for data in (get("/livez"), get("/health"), post(SHORT))]
    held = all(status == 200 and seconds < 2 for status, seconds in seen)
    return held, ", ".join(f"{status} in {seconds:.2f} s" for status, seconds in seen)


def n15(place: Place) -> Result:
    """Open umask, core files allowed."""
    with place.serving(prefix="umask 0; ulimit -c unlimited 2>/dev/null;") as target:
        target.ask(post({**SHORT, "messages": [{"role": "user", "content": "再说一遍。" * 60}]}))
        processes = [psutil.Process(target.popen.pid), *psutil.Process(target.popen.pid).children()]
        cores = [one.rlimit(psutil.RLIMIT_CORE)[0] for one in processes]
    folders = [place.folder / name for name in ("cache", "data", "config")]
    modes = {str(p.relative_to(place.folder)): p.stat().st_mode for folder in folders for p in folder.rglob("*")}
    bad = {name: oct(stat.S_IMODE(mode)) for name, mode in modes.items() if mode & 0o077}
    return not bad and max(cores) <= 1, f"{len(modes)} files, open ones: {bad or 'none'}; core limits {cores}"


def n16(place: Place) -> Result:
    with place.serving("--api-key", "secret-key") as target:
        lines = [line for line in target.text().splitlines() if line.startswith("warning: ")]
    told = [line for line in lines if "--api-key-file" in line and "secret-key" not in line]
    return len(told) == 1, f"warnings: {len(told)}"


def n18(place: Place) -> Result:
    """A text from a pipe beside --prompt."""
    options = ("chat", "--no-cache", "--temperature", "0", "--max-tokens", "24", "--prompt", "你好")
    both, alone = place.command(*options, stdin="北京在哪里？"), place.command(*options)
    held = both[0] != 0 or both[1] != alone[1]
    return held, "refused" if both[0] else f"answers {'differ' if held else 'are equal: the pipe was dropped'}"


def n21(place: Place) -> Result:
    """SIGTERM under load, ten times."""
    bad = []
    for number in range(10):
        with place.serving("--grace", "0.2") as target, ExitStack() as stack:
            for body in [LONG_STORY, {**LONG_STORY, "stream": True}] * 5:
                stack.enter_context(target.connect()).sendall(post(body))
            time.sleep(0.03 * number)
            target.popen.send_signal(signal.SIGTERM)
            code = target.popen.wait(40)
            if code or "Traceback" in target.text():
                bad.append(code)
    return not bad, f"{10 - len(bad)} of 10 ends clean"


def slash(place: Place) -> Result:
    with place.serving() as target:
        seen = [target.ask(get(path))[0] for path in ("//v1/models", "/v1/models")]
    return seen == [404, 200], f"//v1/models {seen[0]}, /v1/models {seen[1]}"


def spaces(place: Place) -> Result:
    """A header whose check could be quadratic."""
    with place.serving() as target:
        status, seconds, _ = target.ask(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX:" + b" " * 32000 + b"\0\r\n\r\n")
    return status == 400 and seconds < 1, f"{status} in {seconds:.2f} s"


ROWS: dict[str, Callable[[Place], Result]] = {
    one.__name__.upper() if one.__name__[1:].isdigit() else one.__name__: one
    for one in (n1, n2, n4, n5, n7, n8, n9, n11, n13, n14, n15, n16, n18, n21, slash, spaces)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="a Python that has glm_edge")
    parser.add_argument("--rows", default=",".join(ROWS), help="which, with commas between")
    args = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files if files < 0 else min(files, 20_000), files))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: ends with what it started
    failed = 0
    for name in args.rows.split(","):
        with tempfile.TemporaryDirectory(prefix="glm-edge-attack-") as folder:
            try:
                held, seen = ROWS[name](Place(os.path.abspath(args.python), Path(folder)))
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                held, seen = False, f"{type(error).__name__}: {error}"
        failed += not held
        print(f"{name:7}{'held' if held else 'FAILED'}  {seen}", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
