"""A client of the JSON lines that shares no code: requests on stdout, replies on stdin."""

import json
import sys
from typing import Any


def ask(request: Any) -> Any:
    sys.stdout.write((request if isinstance(request, str) else json.dumps(request)) + "\n")
    sys.stdout.flush()
    return json.loads(sys.stdin.readline())


wrong: list[Any] = [
    {"cmd": "jump"},
    {"cmd": "step", "action": 99},
    "no JSON",
    {"cmd": "step", "action": 0.5},
    [],
    {"cmd": "step"},
]
actions = ask({"cmd": "describe"})["n_actions"]
ask('\n\n{"cmd": "reset", "seed": 7.0}')
resets, errors, rewards, positions = 1, 0, 0.0, 0.0
for step in range(300):
    if step % 50 == 0:
        errors += not ask(wrong[step // 50])["ok"]
    reply = ask({"cmd": "step", "action": step * step % 3 % actions})
    rewards += reply["reward"]
    positions += reply["obs"][0]
    if reply["terminated"] or reply["truncated"]:
        resets += 1
        ask({"cmd": "reset"})
sums = f"steps 300 resets {resets} errors {errors} rewards {rewards:.1f}"
sys.stderr.write(f"{sums} positions {positions:.6f}\n")
