"""The client killed, the server dead, Ctrl-C: nothing that was paid for is lost, and no key is left anywhere."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.generation.files import questions, samples
from tests.generation.serving import FAULTS, Plan, serve

CANARY = "sk-canary-do-not-write-me-0123456789"


def start(address: str, data: Path, out: Path, **more: object) -> subprocess.Popen[bytes]:
    """Start ``kdtool.generate`` in a process of its own."""
    given = {
        "style": "cot",
        "samples": 1,
        "timeout_s": 1.0,
        "backoff_s": 0.005,
        "retries": 8,
        "concurrency": 16,
        **more,
    }
    code = (
        "import sys\n"
        "import kdtool, kdtool.terminal as terminal\n"
        "from kdtool.errors import KdtoolError\n"
        "try:\n"
        "    with terminal.choose() as reporter:\n"
        f"        kdtool.generate({address!r}, {str(data)!r}, {str(out)!r}, reporter=reporter, **{given!r})\n"
        "except KdtoolError as error:\n"
        "    print(f'error: {error}', file=sys.stderr)\n"
        "    sys.exit(error.exit_code)\n"
    )
    environment = {**os.environ, "KDTOOL_API_KEY": CANARY, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def kept(out: Path) -> int:
    path = out / "asked" / "answers.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process: subprocess.Popen[bytes], out: Path, count: int) -> bool:
    """Wait until so many answers are kept; False: the process ended before."""
    while process.poll() is None:
        if kept(out) >= count:
            return True
        time.sleep(0.005)
    return False


def assert_no_key(folder: Path, said: bytes) -> None:
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert written
    assert not any(CANARY.encode() in each for each in [*written, said])


@pytest.mark.slow
def test_five_hundred_questions_and_thirty_kills(tmp_path: Path) -> None:
    draw, count, kills = random.Random(0), 500, 30
    faults = {i: draw.choice([*FAULTS, "no usage", "echo", "", "", "", ""]) for i in range(count)}

    def plan_of(question: str, times: int) -> str:
        return faults[int(question.split()[2])] if times == 0 else ""

    plan, data, out = Plan(plan_of), questions(tmp_path / "q.jsonl", count), tmp_path / "out"
    said = b""
    with serve(plan) as address:
        for kill in range(kills):
            process = start(address, data, out)
            # Somewhere while it starts, or after some of the answers that come between two kills.
            if kill % 5 == 0:
                time.sleep(draw.uniform(0.1, 1.0))
            else:
                wait_for(process, out, kept(out) + draw.randint(1, max(1, (count - 100 - kept(out)) // (kills - kill))))
            before = kept(out)
            process.send_signal(signal.SIGKILL)
            said += process.communicate()[0]
            assert process.returncode == -signal.SIGKILL
            assert kept(out) >= before
        between = kept(out)
        process = start(address, data, out)
        said += process.communicate(timeout=300)[0]
        assert process.returncode == 0, said.decode()[-2000:]
    assert 0 < between < count
    found = samples(out)
    assert len(found) == len({sample["id"] for sample in found}) == count
    assert kept(out) == count
    for sample in found:
        question, written = (message["content"] for message in sample["messages"])
        asked = next(body for body in plan.bodies if body["messages"][-1]["content"].startswith(question + "\n"))
        assert written == plan.answer(asked["messages"], asked["seed"])
    # Answered twice were those alone that were under way when the client was killed.
    twice = sum(times - 1 for times in plan.answered.values())
    assert twice <= kills * 8
    assert set(plan.answered) == {(body["messages"][-1]["content"], body["seed"]) for body in plan.bodies}
    assert_no_key(out, said)


def test_ctrl_c_keeps_what_is_under_way(tmp_path: Path) -> None:
    plan, data, out = Plan(lambda question, times: "slow"), questions(tmp_path / "q.jsonl", 300), tmp_path / "out"
    with serve(plan) as address:
        process = start(address, data, out, concurrency=4)
        assert wait_for(process, out, 10)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[0]
        assert process.returncode == 130, said
    assert b"The same command goes on." in said
    assert kept(out) == sum(plan.answered.values()) < 300  # not one was lost
    assert_no_key(out, said)


def test_a_server_that_dies_loses_what_it_had_under_way(tmp_path: Path) -> None:
    plan, data, out = Plan(), questions(tmp_path / "q.jsonl", 60), tmp_path / "out"
    program = (
        "import sys\n"
        "from tests.generation.serving import Plan, serve\n"
        "plan = Plan()\n"
        "plan.dies_after = 25\n"
        "with serve(plan) as address:\n"
        "    print(address, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE,
                          cwd=Path(__file__).parents[2]) as server:  # fmt: skip
        assert server.stdout is not None
        address = server.stdout.readline().decode().strip()
        process = start(address, data, out, concurrency=4, retries=1)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 3, said
        assert server.wait(10) == 9
    assert b"requests in a row" in said
    answered = kept(out)
    assert 25 - 4 <= answered <= 25
    port = int(address.split(":")[2].split("/")[0])
    with serve(plan, port) as address:
        process = start(address, data, out)
        said += process.communicate(timeout=60)[0]
        assert process.returncode == 0, said
    assert sum(plan.seen.values()) == 60 - answered
    assert json.loads((out / "card.json").read_text())["requests"]["answered"] == 60
    assert_no_key(out, said)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    plan, data, out = Plan(lambda question, times: "slow"), questions(tmp_path / "q.jsonl", 200), tmp_path / "out"
    with serve(plan) as address:
        first = start(address, data, out, concurrency=2)
        assert wait_for(first, out, 1)
        second = start(address, data, out)
        said = second.communicate(timeout=30)[0]
        first.kill()
        first.communicate()
    assert second.returncode == 2
    assert b"is being written by another process" in said
