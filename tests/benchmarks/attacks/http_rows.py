"""Attacks by sockets on a server; one function a row, see `group_n.py`."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from support.server.victim import SHORT, Place, Result, get, post

LONG_STORY = {
    "messages": [{"role": "user", "content": "讲一个很长的故事"}],
    "logit_bias": {"2": -100},
}  # without an end


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Raises RuntimeError where it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("what the attack needs did not happen")
        time.sleep(0.05)


def n1(place: Place) -> Result:
    """Long texts of characters that tokenizers are slow at, to three paths; one-token chats beside them."""
    with place.serving("--slots", "8") as target:
        alone = max(target.ask(post(SHORT))[1] for _ in range(3))
        texts = [character * 400_000 for character in ("\n", "\t", "😀", "\U00020000")] + ["a" * 1_500_000]
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


def n3(place: Place) -> Result:
    """Two prompts that run at three deaths of the engine's process; then one after the other."""
    prompts = [{**LONG_STORY, "messages": [{"role": "user", "content": text}]} for text in ("讲一个故事", "写一首长诗")]
    with place.serving() as target:
        for _ in range(3):
            with ExitStack() as stack:
                for prompt in prompts:
                    stack.enter_context(target.connect()).sendall(post({**prompt, "stream": True}))
                until(lambda: target.running() == 2)
                (child,) = target.children()
                child.kill()
                child.wait(10)
            until(lambda: target.ask(get("/health"))[0] == 200)
        seen = [target.ask(post({**prompt, "max_tokens": 1}))[0] for prompt in prompts]
    return seen == [200, 200], f"after three deaths both were asked again: {seen}"


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
    """A reader that takes 300 kB of an answer of 25 MB every 15 s.

    With its small segments that is enough for the system to take more from the server within 60 s, so it has not
    stalled. It holds all that its key may have. Its delivery may take 600 s; another's request gets its answer then.
    """
    options = ("--api-key=key", "--per-key=8", "--slots=4", "--queue=4", "--ctx=2048")
    with place.serving(*options) as target, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        sock.settimeout(60)
        sock.connect(("127.0.0.1", target.port))
        long = {**LONG_STORY, "stream": True, "logprobs": True, "top_logprobs": 20, "n": 8}
        sock.sendall(post(long, "/v1/chat/completions", "API-KEY: key"))
        if not sock.recv(12).endswith(b"200"):
            raise RuntimeError("the long answer was refused")
        sock.settimeout(5)
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < 800:
            status = target.chat("你好", "API-KEY: key")[0]
            if status == 200:
                return now > 300, f"another's chat was answered after {now:.0f} s; less than 300 would prove nothing"
            left = 300_000
            with contextlib.suppress(OSError):
                while left > 0 and (data := sock.recv(left)):
                    left -= len(data)
            time.sleep(15)
    return False, f"no answer for another in {now:.0f} s, the last was {status}"


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
