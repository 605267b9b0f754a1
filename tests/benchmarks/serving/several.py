"""Several servers behind HAProxy with the guide's configuration: what four give, and what a lost one costs.

    python tests/benchmarks/serving/several.py [--speed 10] [--seconds 60]      # root on Linux; needs haproxy

Servers, balancer and clients are real; the engines keep the times of a full-size Q4_0 file on two cores without
computing (prompts 23 tokens/s, one answer 8.4, four together 13.6), --speed times as fast, because this is one machine.
A prompt's beginning that an engine has read before costs nothing. Prints a line a scenario:

    goodput: tokens of whole answers a second with 1 and with 4 servers, 16 clients a server, each in a conversation
    affinity: how many later turns came to the server of the first, with and without the balancer's memory, and the
        median time to their first token
    killed, drained, joined: 64 clients while a server is killed, ends by SIGTERM, or comes: answers lost, goodput
    two hundred: openai-python as it comes, all at once, 64 tokens each: answered, and when the last
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import openai

sys.path.append(str(Path(__file__).resolve().parents[2]))

from support.guides import GUIDES
from support.server.office import HOSTS, KEY, Office, office

TOKENS = 32


@dataclass
class Tally:
    """What clients saw; one for all of a scenario."""

    answers: int = 0
    lost: int = 0
    turns: list[tuple[bool, float]] = field(default_factory=list)  # of later ones: same server, seconds to first token
    stop: threading.Event = field(default_factory=threading.Event)


def talk(n: int, tally: Tally, turns: int, *, header: bool = True) -> None:
    """Conversations one after the other until told to stop."""
    client = openai.OpenAI(base_url="http://127.0.0.1:8080/v1", api_key=KEY, max_retries=2)
    for round_ in range(10**6):
        name = f"{n}-{round_}"
        messages = [{"role": "user", "content": f"{name} " + "问" * 100}]
        first = ""
        for turn in range(turns):
            if tally.stop.is_set():
                return
            begin, ttft, text, whole = time.monotonic(), 0.0, "", False
            try:
                for event in client.chat.completions.create(
                    model="",
                    messages=messages,  # type: ignore[arg-type]
                    stream=True,
                    max_tokens=TOKENS,
                    extra_headers={"X-Conversation": name} if header else {},
                ):
                    if event.choices and event.choices[0].delta.content:
                        ttft = ttft or time.monotonic() - begin
                        text += event.choices[0].delta.content
                    whole = whole or bool(event.choices and event.choices[0].finish_reason)
            except openai.OpenAIError:
                whole = False
            if not whole:
                tally.lost += 1
                break
            tally.answers += 1
            host = text[: text.find(" ")]
            first = first or host
            if turn:
                tally.turns.append((host == first, ttft))
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "然后呢" * 10}]


@contextmanager
def clients(n: int, turns: int, *, header: bool = True) -> Iterator[Tally]:
    tally = Tally()
    threads = [threading.Thread(target=talk, args=(one, tally, turns), kwargs={"header": header}) for one in range(n)]
    for thread in threads:
        thread.start()
    yield tally
    tally.stop.set()
    for thread in threads:
        thread.join()


@contextmanager
def servers(n: int, speed: float, change: Callable[[str], str] = lambda config: config) -> Iterator[Office]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "haproxy.cfg"
        config.write_text(change(re.sub(r"log stdout.*", "", (GUIDES / "haproxy.cfg").read_text("utf-8"))), "utf-8")
        with office("haproxy", "-f", str(config), servers=n, options=("--full-size", str(speed))) as several:
            time.sleep(2)  # the balancer has looked at all of them
            yield several


def goodput(n: int, speed: float, seconds: float) -> float:
    with servers(n, speed), clients(16 * n, 2) as tally:
        time.sleep(seconds / 4)
        before, begin = tally.answers, time.monotonic()
        time.sleep(seconds)
        return (tally.answers - before) * TOKENS / (time.monotonic() - begin)


def affinity(speed: float, seconds: float) -> dict[str, list[float]]:
    found = {}
    for name, change in {
        "with": lambda config: config,
        "without": lambda config: re.sub(r"balance hash.*\n.*hash-type.*", "balance roundrobin", config),
    }.items():
        with servers(4, speed, change), clients(16, 3) as tally:
            time.sleep(seconds)
        same, ttft = zip(*tally.turns, strict=True)
        found[name] = [round(sum(same) / len(same), 3), round(statistics.median(ttft), 3)]
    return found


def disturbed(speed: float, seconds: float, what: str) -> dict[str, float]:
    """Goodput in the third of the time before and the two after something happens to a server."""
    with servers(3 if what == "joined" else 4, speed) as several, clients(64, 2) as tally:
        counts, times = [], []
        for third in range(4):
            counts.append(tally.answers)
            times.append(time.monotonic())
            if third == 1 and what == "joined":
                several.serve(HOSTS[3], options=("--full-size", str(speed)))
            elif third == 1:
                several.servers[HOSTS[0]].popen.send_signal({"killed": signal.SIGKILL, "drained": signal.SIGTERM}[what])
            if third < 3:
                time.sleep(seconds / 3)
    rates = [(counts[n + 1] - counts[n]) * TOKENS / (times[n + 1] - times[n]) for n in range(3)]
    return {"lost": tally.lost, "answers": tally.answers, "before": round(rates[0], 1), "after": round(rates[2], 1)}


def two_hundred(speed: float) -> dict[str, float]:
    ends: list[float] = []
    with servers(4, speed):
        start = threading.Barrier(201)

        def ask(n: int) -> None:
            client = openai.OpenAI(base_url="http://127.0.0.1:8080/v1", api_key=KEY)
            start.wait()
            begin = time.monotonic()
            message = {"role": "user", "content": f"{n} 你好，请写一个长故事。"}
            try:
                client.chat.completions.create(model="", messages=[message], max_tokens=64)  # type: ignore[list-item]
            except openai.OpenAIError:
                return
            ends.append(time.monotonic() - begin)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(200)]
        for thread in threads:
            thread.start()
        start.wait()
        for thread in threads:
            thread.join()
    return {"answered": len(ends), "last_s": round(max(ends, default=0), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=float, default=10)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    one, four = (goodput(n, args.speed, args.seconds) for n in (1, 4))
    print(json.dumps({"goodput": {"1": round(one, 1), "4": round(four, 1), "ratio": round(four / one, 2)}}), flush=True)
    print(json.dumps({"affinity": affinity(args.speed, args.seconds)}), flush=True)
    for what in ("killed", "drained", "joined"):
        print(json.dumps({what: disturbed(args.speed, args.seconds, what)}), flush=True)
    print(json.dumps({"two hundred": two_hundred(args.speed)}), flush=True)


if __name__ == "__main__":
    main()
