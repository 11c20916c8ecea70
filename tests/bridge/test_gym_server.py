"""The program that is spawned, run as a client in another language runs it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import msgpack
import pytest

from tests.bridge.conversation import SERVER, ask_jsonl, run_server
from tests.processes import ROOT
from vecsess.wire.channel import VALUE_BYTES, frame

PAGE = (ROOT / "docs" / "protocol.md").read_text()
RESET, STEP, CLOSE = {"cmd": "reset"}, {"cmd": "step", "action": 0}, {"cmd": "close"}
DESCRIBE = {"cmd": "describe"}


def transcript(name: str) -> tuple[str, list[str], list[str]]:
    """Returns the env id, the lines sent and the lines received that the page shows."""
    found = re.search(rf"<!-- {name}: (\S+) -->\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/protocol.md has no transcript named {name}"
    lines = found[2].splitlines()
    sent = [line[2:].strip() for line in lines if line.startswith("->")]
    return found[1], sent, [line[3:] for line in lines if line.startswith("<-")]


def odd(name: str) -> str:
    return f"tests.bridge.plain_envs:{name}-v0"


def errors(replies: list[Any]) -> list[str]:
    """Returns the type of each error, "" for a reply that is none."""
    return [reply.get("error", "").partition(":")[0] for reply in replies]


@pytest.fixture(autouse=True)
def _find_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


# --- the documented conversation -----------------------------------------------------------------


def test_the_documented_json_lines_are_what_the_server_says() -> None:
    env_id, sent, expected = transcript("jsonl")
    done = run_server("\n".join(sent).encode(), "--env-id", env_id, "--protocol", "jsonl")
    assert done.stdout.decode().splitlines() == expected
    assert done.returncode == 0


def test_the_documented_msgpack_frames_are_what_the_server_says() -> None:
    env_id, sent, expected = transcript("msgpack")
    done = run_server(bytes.fromhex("".join(sent)), "--env-id", env_id, "--protocol", "msgpack")
    assert done.stdout == bytes.fromhex("".join(expected))
    assert done.returncode == 0


# --- to the letter -------------------------------------------------------------------------------


def test_json_lines_are_the_default_protocol() -> None:
    (reply,) = ask_jsonl([DESCRIBE], "--env-id", "CartPole-v1")
    assert reply == {"ok": True, "n_actions": 2, "obs_shape": [4], "obs_dtype": "float32"}


def test_a_whole_episode_is_the_environments_own() -> None:
    actions = [step % 2 for step in range(30)] + [1] * 30
    env = gymnasium.make("CartPole-v1")
    expected = [{"ok": True, "obs": env.reset(seed=3)[0].tolist()}]
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        expected.append(
            {
                "ok": True,
                "obs": obs.tolist(),
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
            }
        )
        if terminated:
            break
    env.close()
    assert expected[-1]["terminated"], "the episode ends, or this shows little"
    requests = [{"cmd": "reset", "seed": 3}]
    requests += [{"cmd": "step", "action": action} for action in actions[: len(expected) - 1]]
    assert ask_jsonl(requests, "--env-id", "CartPole-v1") == expected


def test_a_reset_without_a_seed_goes_on_with_the_stream() -> None:
    env = gymnasium.make("CartPole-v1")
    expected = [env.reset(seed=seed)[0].tolist() for seed in (5, None, None, 5)]
    env.close()
    requests = [{"cmd": "reset", "seed": 5}, RESET, {"cmd": "reset", "seed": None}]
    replies = ask_jsonl([*requests, {"cmd": "reset", "seed": 5}])
    assert [reply["obs"] for reply in replies] == expected


def test_what_is_wrong_is_said_and_the_server_goes_on() -> None:
    wrong = {
        '{"cmd": "jump"}': "KeyError: 'unknown cmd'",
        "{}": "KeyError: 'unknown cmd'",
        '{"cmd": ["reset"]}': "KeyError: 'unknown cmd'",
        "[]": "TypeError: request must be a JSON object",
        '"reset"': "TypeError: request must be a JSON object",
        "null": "TypeError: request must be a JSON object",
        "reset": "JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        '{"cmd": "step"}': "KeyError: 'action'",
        '{"cmd": "step", "action": 2}': "AssertionError: 2 (<class 'int'>) invalid",
        '{"cmd": "step", "action": -1}': "AssertionError: -1 (<class 'int'>) invalid",
        '{"cmd": "step", "action": 1e400}': "TypeError: action: expected an integer, got inf",
        '{"cmd": "step", "action": 0.5}': "TypeError: action: expected an integer, got 0.5",
        '{"cmd": "step", "action": true}': "TypeError: action: expected an integer, got True",
        '{"cmd": "step", "action": "1"}': "TypeError: action: expected an integer, got '1'",
        '{"cmd": "step", "action": NaN}': "ValueError: NaN is not JSON",
    }
    replies = ask_jsonl([RESET, *wrong, {"cmd": "step", "action": 1.0}])
    assert [reply.get("error") for reply in replies] == [None, *wrong.values(), None]
    assert all(reply["ok"] is (reply.get("error") is None) for reply in replies)


def test_bytes_that_are_no_text_are_said_to_be_so() -> None:
    done = run_server(b'\xff\xfe\n{"cmd":"describe"}\n')
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert errors(replies) == ["UnicodeDecodeError", ""]


def test_a_request_nested_too_deeply_does_not_end_the_server() -> None:
    assert errors(ask_jsonl(["[" * 100_000, DESCRIBE])) == ["RecursionError", ""]


def test_a_seed_is_a_whole_number_however_it_is_written() -> None:
    seeds = (5, 5.0, True, 0.5, "5", None, [5])
    replies = ask_jsonl([{"cmd": "reset", "seed": seed} for seed in seeds])
    assert replies[0]["obs"] == replies[1]["obs"]
    assert [reply.get("error") for reply in replies] == [
        None,
        None,
        "TypeError: seed: expected an integer, got True",
        "TypeError: seed: expected an integer, got 0.5",
        "TypeError: seed: expected an integer, got '5'",
        None,
        "TypeError: seed: expected an integer, got [5]",
    ]


def test_a_bad_seed_is_the_environments_to_refuse() -> None:
    replies = ask_jsonl([{"cmd": "reset", "seed": -1}, {"cmd": "reset", "seed": "x"}, RESET])
    assert [reply["ok"] for reply in replies] == [False, False, True]


def test_blank_lines_are_skipped() -> None:
    done = run_server(b'\n   \n\r\n{"cmd":"describe"}\r\n\n')
    assert len(done.stdout.splitlines()) == 1


def test_the_end_of_input_ends_it_without_a_last_newline() -> None:
    assert len(ask_jsonl([RESET, STEP])) == 2


def test_no_input_at_all_ends_it() -> None:
    assert ask_jsonl([]) == []


def test_close_ends_it_before_the_end_of_input() -> None:
    assert ask_jsonl([CLOSE, DESCRIBE]) == [{"ok": True}]


def test_each_reply_comes_before_the_next_request() -> None:
    with subprocess.Popen(
        [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for request in (DESCRIBE, RESET, STEP, CLOSE):
            server.stdin.write(json.dumps(request).encode() + b"\n")
            server.stdin.flush()
            assert json.loads(server.stdout.readline())["ok"]
        assert server.wait(30) == 0


# --- environments --------------------------------------------------------------------------------


def test_the_environments_prints_never_reach_the_protocol() -> None:
    requests = json.dumps(RESET) + "\n" + json.dumps(STEP) + "\n" + json.dumps(CLOSE)
    done = run_server(requests.encode(), "--env-id", odd("LoudEnv"))
    assert [json.loads(line)["ok"] for line in done.stdout.splitlines()] == [True] * 3
    for shout in (b"printed", b"put", b"echoed"):
        assert done.stderr.count(shout + b"\n") == 4, "made, reset, stepped, closed"


def test_what_is_not_finite_is_refused() -> None:
    requests = [RESET, *({"cmd": "step", "action": action} for action in (1, 2, 0))]
    replies = ask_jsonl(requests, "--env-id", odd("OddEnv"))
    assert [reply["ok"] for reply in replies] == [True, False, False, True]
    assert replies[1]["error"].startswith("ValueError: obs: expected finite numbers")
    assert replies[2]["error"] == "ValueError: reward: expected finite numbers, got inf"


def test_what_is_not_of_its_form_is_refused() -> None:
    requests = [RESET, *({"cmd": "step", "action": action} for action in (3, 4, 5, 6))]
    replies = ask_jsonl(requests, "--env-id", odd("OddEnv"))
    assert errors(replies) == ["", "FormError", "FormError", "FormError", ""]
    assert replies[-1]["reward"] == 2.0
    assert replies[-1]["terminated"] is True


def test_an_action_is_an_index_wherever_the_space_starts() -> None:
    replies = ask_jsonl(
        [DESCRIBE, RESET, {"cmd": "step", "action": 2}], "--env-id", odd("BytesEnv")
    )
    assert replies[0] == {"ok": True, "n_actions": 3, "obs_shape": [2, 3], "obs_dtype": "uint8"}
    assert replies[1]["obs"] == [[0] * 3] * 2
    assert replies[2]["obs"] == [[7] * 3] * 2


def test_make_kwargs_reach_the_environment() -> None:
    arguments = ("--env-id", "FrozenLake-v1", "--make-kwargs", '{"map_name": "8x8"}')
    replies = ask_jsonl([DESCRIBE, {"cmd": "reset", "seed": 0}], *arguments)
    assert replies[0] == {"ok": True, "n_actions": 4, "obs_shape": [], "obs_dtype": "int64"}
    assert replies[1] == {"ok": True, "obs": 0}


def test_ale_ids_are_registered_on_demand() -> None:
    arguments = ("--env-id", "ALE/Pong-v5", "--make-kwargs", '{"obs_type": "ram"}')
    replies = ask_jsonl([DESCRIBE, {"cmd": "reset", "seed": 0}, STEP], *arguments)
    assert replies[0] == {"ok": True, "n_actions": 6, "obs_shape": [128], "obs_dtype": "uint8"}
    assert len(replies[2]["obs"]) == 128


def test_it_runs_from_anywhere_without_the_package_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH")
    assert ask_jsonl([CLOSE], "--env-id", "CartPole-v1", folder=tmp_path) == [{"ok": True}]


# --- refusals and ends ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "why"),
    [
        ("NoSuchEnv-v0", "NoSuchEnv"),
        (odd("ContinuousEnv"), "expected a Discrete action space"),
        (odd("TupleEnv"), "expected an observation space of one array"),
    ],
)
def test_an_environment_that_it_cannot_serve_ends_it_with_a_reason(env_id: str, why: str) -> None:
    done = run_server(b"", "--env-id", env_id)
    assert done.returncode == 1
    (line,) = [said for said in done.stderr.decode().splitlines() if "gym_server: " in said]
    assert why in line
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""
    debugged = run_server(b"", "--env-id", env_id, "--debug")
    assert debugged.returncode == 1
    assert b"Traceback" in debugged.stderr


def test_an_environment_that_fails_to_be_made_is_one_line() -> None:
    arguments = ("--env-id", "CartPole-v1", "--make-kwargs", '{"nonsense": 1}')
    done = run_server(b"", *arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert b"nonsense" in done.stderr


@pytest.mark.parametrize("text", ["[1]", "{", "1"])
def test_make_kwargs_must_be_an_object(text: str) -> None:
    done = run_server(b"", "--make-kwargs", text)
    assert done.returncode == 2
    assert "expected a JSON object" in done.stderr.decode()


def test_an_interrupt_ends_it_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stderr is not None
        server.stdin.write(json.dumps(DESCRIBE).encode() + b"\n")
        server.stdin.flush()
        server.stdout.readline()
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
        assert server.stderr.read() == b""


def test_a_client_that_goes_away_ends_it_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stderr is not None
        server.stdout.close()
        server.stdin.write((json.dumps(DESCRIBE) + "\n").encode() * 3)
        server.stdin.flush()
        assert server.wait(30) == 0
        assert server.stderr.read() == b""


# --- msgpack -------------------------------------------------------------------------------------


def ask_msgpack(requests: list[Any], *arguments: str) -> list[Any]:
    """Returns the replies to requests, which are objects, or payloads as they are."""
    payloads = [r if isinstance(r, bytes) else msgpack.packb(r) for r in requests]
    data = b"".join(frame(payload) for payload in payloads)
    return replies_in(run_server(data, "--protocol", "msgpack", *arguments).stdout)


def replies_in(data: bytes) -> list[Any]:
    replies = []
    while data:
        end = 4 + int.from_bytes(data[:4], "little")
        replies.append(msgpack.unpackb(data[4:end]))
        data = data[end:]
    return replies


def test_msgpack_says_what_json_lines_say() -> None:
    requests: list[Any] = [DESCRIBE, {"cmd": "reset", "seed": 0}, STEP, {"cmd": "jump"}, [1], CLOSE]
    assert ask_msgpack(requests) == ask_jsonl(requests)


def test_msgpack_that_is_none_does_not_end_the_server() -> None:
    assert errors(ask_msgpack([b"\xc1", b"", DESCRIBE])) == ["EncodingError", ""]


def test_msgpack_refuses_what_is_not_finite_too() -> None:
    replies = ask_msgpack([RESET, {"cmd": "step", "action": 1}], "--env-id", odd("OddEnv"))
    assert errors(replies) == ["", "ValueError"]


def test_a_frame_beyond_the_cap_is_answered_and_ends_the_server() -> None:
    data = (VALUE_BYTES + 1).to_bytes(4, "little") + frame(msgpack.packb(DESCRIBE))
    done = run_server(data, "--protocol", "msgpack")
    assert errors(replies_in(done.stdout)) == ["FrameError"]
    assert done.returncode == 0


def test_a_frame_cut_short_ends_the_server() -> None:
    data = frame(msgpack.packb(DESCRIBE)) + frame(msgpack.packb(RESET))[:-1]
    done = run_server(data, "--protocol", "msgpack")
    assert len(replies_in(done.stdout)) == 1
    assert done.returncode == 0
