"""A client of a real server on loopback: what comes through, what is tried again, and what is given up."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest

from kdtool.errors import InputError, RunError
from kdtool.events import Reporter
from kdtool.generation.address import key_for, parse
from kdtool.generation.budget import Budget
from kdtool.generation.collect import Collector, Tally
from kdtool.generation.patience import Gate, Patience
from kdtool.generation.request import Fault, Refused, Request, Sampling
from kdtool.generation.server import Server, body_of, same_model, wait_of
from kdtool.generation.store import Store
from tests.generation.serving import FAULTS, MODEL, Plan, says, serve

QUICK = Patience(retries=4, first_s=0.001)


def requests(count: int, **sampling: int) -> list[Request]:
    return [Request(MODEL, (("user", f"What is {i}?"),), Sampling(**sampling)) for i in range(count)]  # type: ignore[arg-type]


def collect(
    address: str,
    folder: Path,
    wanted: list[Request],
    budget: Budget | None = None,
    patience: Patience = QUICK,
    timeout_s: float = 0.5,
) -> tuple[Tally, Store]:
    """Ask a server for answers, four at a time."""
    server, store = Server(parse(address), None, 4, timeout_s), Store(folder)
    try:
        tally = Collector(server, store, budget or Budget(None, None), patience, Reporter()).collect(wanted, "test")
    finally:
        store.close()
        server.close()
    return tally, Store(folder)


def test_every_fault_is_waited_out_and_each_answer_is_the_servers_own(tmp_path: Path) -> None:
    wanted = requests(len(FAULTS) * 2)
    names = {request.messages[0][1]: FAULTS[i % len(FAULTS)] for i, request in enumerate(wanted)}
    plan = Plan(lambda question, times: names[question] if times < 2 else "no usage" if "3" in question else "")
    with serve(plan) as address:
        tally, store = collect(address, tmp_path, wanted)
        assert (tally.answered, tally.failed, tally.stopped) == (len(wanted), [], None)
        for request in wanted:
            answer = store.get(request.key)
            assert answer is not None
            assert answer.text == says([{"content": request.messages[0][1]}], request.seed)
            assert answer.counted == ("3" not in request.messages[0][1])
        assert plan.most_at_once <= 4 + sum(name in ("hung", "forever") for name in names.values()) * 2
        before = sum(plan.seen.values())
        again, _ = collect(address, tmp_path, wanted)
        assert (again.there, again.answered) == (len(wanted), 0)
        assert sum(plan.seen.values()) == before  # nothing is paid for twice


def test_what_keeps_failing_is_given_up_and_the_rest_goes_on(tmp_path: Path) -> None:
    plan = Plan(
        lambda question, times: "500" if question == "What is 3?" else "400" if question == "What is 5?" else ""
    )
    with serve(plan) as address:
        tally, store = collect(address, tmp_path, requests(12))
    assert [(request.messages[0][1], why) for request, why in tally.failed] == [("What is 3?", "status 500: of mine")]
    assert (tally.answered, tally.refused, len(store)) == (10, 1, 11)
    assert plan.seen[("What is 3?", requests(4)[3].seed)] == 5
    assert plan.seen[("What is 5?", requests(6)[5].seed)] == 1
    assert store.get(requests(6)[5].key) is None


def test_a_server_that_is_gone_is_not_asked_for_each_request(tmp_path: Path) -> None:
    with serve(Plan()) as address:
        pass
    with pytest.raises(RunError, match=r"failed 4 requests in a row.*0 of 50 answers are kept"):
        collect(address, tmp_path, requests(50))


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [("401", InputError, "wants a key"), ("402", RunError, "be paid"), ("404", InputError, "no such model"),
     ("302", InputError, "sends on"), ("400", RunError, "refuses what it is asked")],
)  # fmt: skip
def test_what_no_retry_mends_ends_at_once(tmp_path: Path, status: str, error: type[Exception], says: str) -> None:
    plan = Plan(lambda question, times: status)
    with serve(plan) as address, pytest.raises(error, match=says):
        collect(address, tmp_path, requests(50))
    assert sum(plan.seen.values()) <= 8


def test_budgets_are_kept_with_requests_under_way(tmp_path: Path) -> None:
    plan = Plan()
    with serve(plan) as address:
        tally, _ = collect(address, tmp_path / "a", requests(50), Budget(10, None))
        assert tally.stopped == "--max-requests 10 is used up"
        assert sum(plan.seen.values()) == tally.answered == 10
        # Each request may take its estimate and 30 new tokens, and takes 18 in the end.
        most = requests(1)[0].estimate() + 30
        budget = Budget(None, 200)
        tally, store = collect(address, tmp_path / "b", requests(50, new_tokens=30), budget)
        assert tally.stopped == "--max-tokens-total 200 is used up"
        assert 200 - most < budget.spent <= 200
        assert budget.spent == store.prompt_tokens + store.completion_tokens == 18 * tally.answered


def test_retry_after_holds_everybody_back() -> None:
    gate, halt = Gate(), threading.Event()
    gate.close(0.2)
    began = time.monotonic()
    gate.wait(halt)
    assert time.monotonic() - began >= 0.2
    gate.close(60)
    halt.set()
    gate.wait(halt)  # whoever stops is not held


def test_waits_grow_up_to_a_limit_and_obey_the_server() -> None:
    patience = Patience(retries=9, first_s=1.0, longest_s=8.0)
    for attempt, whole in enumerate([1, 2, 4, 8, 8]):
        assert all(whole / 2 <= patience.pause(attempt, None) <= whole for _ in range(50))
    assert all(7.0 <= patience.pause(0, 7.0) <= 7.5 for _ in range(50))


def test_a_server_that_asks_for_an_hour_is_left_alone(tmp_path: Path) -> None:
    plan = Plan(lambda question, times: "429")
    with serve(plan) as address, pytest.raises(RunError, match="asks to be left alone"):
        collect(address, tmp_path, requests(20), patience=Patience(4, 0.001, obeyed_s=0.01))
    assert sum(plan.seen.values()) <= 4


def test_retry_after_is_a_number_or_a_date() -> None:
    assert wait_of({"retry-after": "2.5"}) == 2.5
    assert wait_of({"retry-after": "-3"}) == 0
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=90), usegmt=True)
    assert 80 < (wait_of({"retry-after": soon}) or 0) <= 90
    assert [wait_of({"retry-after": text}) for text in ("", "soon", "nan", "inf")] == [None] * 4


@pytest.mark.parametrize(
    ("asked", "reported", "same"),
    [("gpt-4o", "gpt-4o-2024-08-06", True), ("Qwen/Qwen3-32B", "qwen3-32b", True), ("m.gguf", "/models/m.gguf", True),
     ("qwen3-32b", "qwen3-8b", False), ("a", "", False)],
)  # fmt: skip
def test_names_that_servers_give_one_model(asked: str, reported: str, same: bool) -> None:
    assert same_model(asked, reported) is same


def test_models_are_looked_up() -> None:
    plan = Plan()
    with serve(plan) as address:
        bare = address.partition("#")[0]
        alone = Server(parse(bare), None)
        alone.connect()
        assert alone.model == MODEL
        with pytest.raises(InputError, match=r"does not serve 'tiny-techer'\. Did you mean 'tiny-teacher'"):
            Server(parse(f"{bare}#tiny-techer"), None).connect()
        plan.models = ["a", "b"]
        Server(parse(f"{bare}/nowhere#x"), None).connect()  # no list: it will be seen
        with pytest.raises(InputError, match=r"serves 2 models \(a, b\)"):
            Server(parse(bare), None).connect()
    with pytest.raises(InputError, match=r"does not list its models \(it ConnectError"):
        Server(parse(bare), None).connect()


def test_what_decides_the_answer_is_the_key() -> None:
    base = Request(MODEL, (("user", "x"),), Sampling())
    others = [
        Request("other", base.messages, base.sampling),
        Request(MODEL, (("system", "x"),), base.sampling),
        Request(MODEL, (("user", "x "),), base.sampling),
        Request(MODEL, base.messages, base.sampling, 1),
        *(Request(MODEL, base.messages, Sampling(**change)) for change in  # type: ignore[arg-type]
          ({"temperature": 0.5}, {"top_p": 0.9}, {"new_tokens": 9}, {"seed": 1}, {"logprobs": 2}, {"extra": {"a": 1}})),
    ]  # fmt: skip
    assert len({base.key, *(other.key for other in others)}) == len(others) + 1
    assert base.key == Request(MODEL, (("user", "x"),), Sampling()).key
    assert body_of(Request(MODEL, base.messages, Sampling(extra={"seed": None, "min_p": 0.1}))) == {
        "model": MODEL, "messages": [{"role": "user", "content": "x"}], "temperature": 0.0, "max_tokens": 512,
        "min_p": 0.1,
    }  # fmt: skip


def test_log_probabilities_are_kept_in_short(tmp_path: Path) -> None:
    wanted = requests(1, logprobs=2)
    with serve(Plan()) as address:
        _, store = collect(address, tmp_path, wanted)
    answer = store.get(wanted[0].key)
    assert answer is not None
    assert answer.logprobs == [["t0", -1.0, [["t0", -1.0], ["t1", -2.0]]]]


# --- keys ---------------------------------------------------------------------------------------------------------

CANARY = "sk-canary-0123456789abcdef"


def test_a_key_is_sent_and_never_told(tmp_path: Path) -> None:
    plan = Plan(lambda question, times: "leak" if "0" in question else "echo")
    with serve(plan) as address:
        server, store = Server(parse(address), CANARY, 2), Store(tmp_path)
        collector = Collector(server, store, Budget(None, None), QUICK, Reporter())
        tally = collector.collect(requests(2), "test")
        store.close()
        server.close()
    assert plan.headers["Authorization"] == f"Bearer {CANARY}"
    assert "[key]" in tally.failed[0][1]
    assert CANARY not in tally.failed[0][1]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"You sent Bearer [key]." in written
    assert CANARY.encode() not in written


def test_a_key_goes_only_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTOOL_API_KEY", CANARY)
    assert key_for(parse("http://localhost:1/v1"), None) == CANARY
    assert key_for(parse("https://host/v1"), None) == CANARY
    with pytest.raises(InputError, match="unencrypted") as refusal:
        key_for(parse("http://host/v1"), None)
    assert CANARY not in str(refusal.value)
    monkeypatch.setenv("OTHER", f"{CANARY}\r\nX-Evil: 1")
    with pytest.raises(InputError, match="characters that no key has") as refusal:
        key_for(parse("https://host/v1"), "OTHER")
    assert CANARY not in str(refusal.value)
    with pytest.raises(InputError, match="no such environment variable"):
        key_for(parse("https://host/v1"), "MISSING")
    monkeypatch.delenv("KDTOOL_API_KEY")
    assert key_for(parse("http://host/v1"), None) is None


def test_what_stays_here_goes_past_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Plan()) as proxy, serve(Plan()) as address:
        monkeypatch.setenv("HTTP_PROXY", proxy.partition("/v1")[0])
        monkeypatch.delenv("NO_PROXY", raising=False)
        tally, _ = collect(address, tmp_path, requests(1))
    assert tally.answered == 1
    monkeypatch.setenv("KDTOOL_API_KEY", CANARY)
    with pytest.raises(InputError, match="unencrypted"):
        key_for(parse("http://127.0.0.1.evil.example/v1"), None)


@pytest.mark.parametrize("text", ["http://me:secret@host/v1", "https://host/v1?key=secret"])
def test_an_address_holds_no_key(text: str) -> None:
    with pytest.raises(InputError, match="environment variable") as refusal:
        parse(text)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("text", ["http://", "http://host:port/v1", "http://[::1/v1", "http://host/v1\n#m"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError, match="URL#MODEL"):
        parse(text)


def test_kinds_of_faults_are_told_apart() -> None:
    statuses = {"408": Fault, "503": Fault, "422": Refused, "413": Refused}
    for status, kind in statuses.items():
        with serve(Plan(lambda question, times, status=status: status)) as address:  # type: ignore[misc]
            server = Server(parse(address), None)
            with pytest.raises(kind, match=f"status {status}"):
                server.ask(requests(1))
