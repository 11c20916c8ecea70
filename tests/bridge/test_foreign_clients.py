"""Clients in other languages, and one in Python that shares no code, drive the server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

from tests.bridge.conversation import SERVER

CLIENTS = Path(__file__).parent / "clients"


def expected_sums() -> str:
    """Returns what a client says after 300 steps, by the environment itself."""
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=7)
    resets, rewards, positions = 1, 0.0, 0.0
    for step in range(300):
        observation, reward, terminated, truncated, _ = env.step(step * step % 3 % 2)
        rewards += float(reward)
        positions += float(observation[0])
        if terminated or truncated:
            resets += 1
            env.reset()
    env.close()
    assert resets > 5
    sums = f"steps 300 resets {resets} errors 6 rewards {rewards:.1f}"
    return f"{sums} positions {positions:.6f}\n"


def command_of(name: str, folder: Path) -> list[str]:
    """Returns how a client is started; skips the test where its tool is missing."""
    source = CLIENTS / name
    if name.endswith(".py"):
        return [sys.executable, "-I", str(source)]
    tool = shutil.which("cc" if name.endswith(".c") else "node")
    if tool is None:
        pytest.skip(f"{name} needs a tool that is not installed")
    if name.endswith(".js"):
        return [tool, str(source)]
    program = folder / "client"
    subprocess.run([tool, "-Wall", "-Werror", "-o", program, source], check=True)
    return [str(program)]


@pytest.mark.parametrize("name", ["client.c", "client.js", "client.py"])
def test_it_drives_the_server_through_resets_errors_and_the_end(name: str, tmp_path: Path) -> None:
    command = command_of(name, tmp_path)
    with subprocess.Popen(
        [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        with subprocess.Popen(
            command, stdin=server.stdout, stdout=server.stdin, stderr=subprocess.PIPE, text=True
        ) as client:
            server.stdin.close()  # else it would not see that the client ends
            _, said = client.communicate(timeout=120)
        assert said == expected_sums()
        assert client.returncode == 0
        assert server.wait(30) == 0
