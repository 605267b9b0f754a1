"""Runs the simulation of the engine's heart over many seeds, as long as asked for.

    python tests/benchmarks/simulate.py                                # 10 million steps: about an hour on one core
    python tests/benchmarks/simulate.py --steps 0 --seconds 60         # a minute
    python tests/benchmarks/simulate.py --seed 46 --runs 1             # one seed again, exactly
    python tests/benchmarks/simulate.py --seed 46 --runs 1 --length 50 # its first steps, as another run

A seed is a run of its own: an engine's sizes, clients and faults are drawn from it (`tests/support/simulation`). Prints
how many steps and seeds there were, how often each fault and each end occurred, and the worst waits, as one JSON line
at the end, or after Ctrl-C. A seed that fails is printed with the shortest run that shows it; exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from support.simulation.plan import draw_plan
from support.simulation.run import Simulation
from support.simulation.shrink import report


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000_000, help="turns of the engine in all; 0 is no limit")
    parser.add_argument("--seconds", type=float, default=0, help="seconds after which no run begins; 0 is no limit")
    parser.add_argument("--runs", type=int, default=0, help="seeds; 0 is no limit")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; the next ones follow")
    parser.add_argument("--length", type=int, default=700, help="steps of a run in which clients come")
    parser.add_argument("--failures", type=int, default=1, help="seeds that may fail before it stops")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    begin = told = time.monotonic()
    turns, events, failed = 0, Counter[str](), list[int]()
    longest = waited = overtaken = 0
    seed = args.seed
    while len(failed) < args.failures:
        seconds = time.monotonic() - begin
        if (0 < args.steps <= turns) or (0 < args.runs <= seed - args.seed) or (0 < args.seconds <= seconds):
            break
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{turns:,} steps, seed {seed}, {turns / seconds:,.0f} steps a second", file=sys.stderr)
        plan = draw_plan(seed, args.length)
        simulation = Simulation(plan)
        try:
            simulation.run()
        except KeyboardInterrupt:
            break
        except Exception:  # the report says what it was
            failed.append(seed)
            print(f"after {seconds:.0f} s", report(seed, plan))
        turns += simulation.outcome.turns
        events += simulation.outcome.events
        longest = max(longest, simulation.waiting.longest)
        waited = max(waited, simulation.waiting.waited)
        overtaken = max(overtaken, simulation.waiting.overtaken)
        seed += 1
    figures = {
        "steps": turns,
        "seeds": [args.seed, seed - 1],
        "length": args.length,
        "seconds": round(time.monotonic() - begin),
        "failed_seeds": failed,
        "events": dict(sorted(events.items())),
        "most_steps_a_running_answer_stood_still": longest,
        "most_steps_before_a_client_was_begun": waited,
        "most_clients_that_overtook_one": overtaken,
    }
    print(json.dumps(figures))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
