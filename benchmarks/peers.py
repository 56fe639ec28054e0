"""kdtool's speed beside its peers': measures the loops that are there and writes the tables of BENCHMARKS.md.

    python benchmarks/peers.py [--run [images] [language]] [--device cpu] [--rounds 9] [--steps 2]
        [--repdistiller FOLDER] [--mdistiller FOLDER] [--timm FOLDER] [--torchdistill] [--peers-python PYTHON]
        [--trl-python PYTHON] [--data FOLDER]

Peers are checked out or installed by the reader: folders are checkouts (of timm the one with its ``train.py``), and an
interpreter is one that imports what its peers need (kdtool; yacs and tensorboardX for mdistiller; torchdistill; or trl
alone). A peer that is not given is left out, and the page says so. Every loop is a process of its own and trains the
same pair at the same batch (``peer_loops/``); all are there at once and take turns in blocks of steps, A B C A B C, so
that a noisy machine disturbs each alike. ``--run`` measures anew, which wants an idle machine; ``--data``: CIFAR-100 in
place of random images. Findings are kept as JSON in ``benchmarks/speed/peers/``, and the tables are made of these files
alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import in_turn  # beside this file
import marked

HERE = Path(__file__).resolve().parent
LOOPS, FOUND = HERE / "peer_loops", HERE / "speed" / "peers"
BEGIN, END = "<!-- peers: made by benchmarks/peers.py -->", "<!-- end of peers -->"
REST = 0.3
"""Seconds between blocks: the threads of the last one spin for a while before they sleep."""


@dataclass(frozen=True)
class Loop:
    """A loop that takes turns.

    Attributes:
        name: shown.
        script: of ``peer_loops``.
        given: the option that brings it; None: it is always there.
        precision: fp32 or bf16.
        replayed: the teacher's outputs are stored.
    """

    name: str
    script: str
    given: str | None = None
    precision: str = "fp32"
    replayed: bool = False


@dataclass(frozen=True)
class Kind:
    """Loops that train the same pair.

    Attributes:
        title: of the table.
        text: what is to be known to read it.
        unit: what is counted.
        reference: the name of the loop that the others are compared with; it is always there.
        loops: in the order of their turns.
    """

    title: str
    text: str
    unit: str
    reference: str
    loops: tuple[Loop, ...]


def own(replay: str) -> tuple[Loop, ...]:
    """Return kdtool's loops; ``replay``: how those are called that have the teacher's outputs stored."""
    return tuple(
        Loop(", ".join(["kdtool", *[precision] * (precision != "fp32"), *[replay] * replayed]), "kdtool_loop",
             precision=precision, replayed=replayed)
        for replayed in (False, True) for precision in ("fp32", "bf16")
    )  # fmt: skip


KINDS = {
    "images": Kind(
        "Images: resnet32x4 to resnet8x4, `kd`",
        "KD at batch 64, 32x32 pixels and 100 classes. Peers get ready batches; kdtool's loops are its engine on its "
        "own data path, with crops, flips and meters. RepDistiller and mdistiller have networks of their own; the "
        "others take kdtool's. mdistiller's trainer asks for a card: without one, what sends a batch there is left "
        "out of it.",
        "images",
        "kdtool",
        (
            *own("replayed"),
            Loop("RepDistiller", "repdistiller_loop", "repdistiller"),
            Loop("mdistiller", "mdistiller_loop", "mdistiller"),
            Loop("torchdistill", "torchdistill_loop", "torchdistill"),
            Loop("timm's train.py", "timm_loop", "timm"),
            Loop("timm's train.py, bf16 (--amp)", "timm_loop", "timm", "bf16"),
        ),
    ),
    "language": Kind(
        "Language: SmolLM2-135M to 17 million parameters, `gkd`",
        "Random weights and random text, four samples of 256 tokens a batch, 49,152 tokens in the vocabulary. The "
        "plain loop is what one writes for oneself with transformers: the same loss in chunks of rows and a fused "
        "AdamW; it is to be reached to 0.95. TRL's trainer runs on given text, without its default of gradient "
        "checkpointing. Replayed are the teacher's 64 likeliest tokens.",
        "tokens",
        "plain loop",
        (
            Loop("plain loop", "plain_loop"),
            Loop("plain loop, bf16", "plain_loop", precision="bf16"),
            *own("replayed top 64"),
            Loop("TRL's GKDTrainer", "trl_loop", "trl_python"),
            Loop("TRL's GKDTrainer, bf16", "trl_loop", "trl_python", "bf16"),
        ),
    ),
}


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a kind of loops."""
    from kdtool.engine.precision import pick_device
    from kdtool.measure.profile import machine

    kind, workers, left_out = KINDS[name], {}, {}
    with tempfile.TemporaryDirectory(prefix="peers-") as work:
        about = {"kind": name, "work": work, "device": args.device, "steps": args.steps, "precision": "fp32"}
        about |= {"data": str(args.data.resolve())} if args.data else {}
        say("making data, networks and the teacher's outputs")
        started = [LOOPS / "prepare.py", json.dumps(about)]
        subprocess.run([sys.executable, *map(str, started)], check=True, env=in_turn.surroundings(about))
        rates: dict[str, list[float]] = {}
        try:
            for number, loop in enumerate(kind.loops):
                brought = getattr(args, loop.given) if loop.given else True
                if not brought:
                    left_out[loop.name] = "not given"
                    continue
                say(f"starting {loop.name}")
                python = {"trl_python": args.trl_python, None: sys.executable}.get(loop.given, args.peers_python)
                told = {**about, "precision": loop.precision, "replayed": loop.replayed, "path": str(brought)}
                said = Path(work) / f"said-{number}"
                worker = workers[loop.name] = in_turn.Worker(python, LOOPS / f"{loop.script}.py", told, said)
                if not worker.waits():
                    left_out[loop.name] = f"did not start ({worker.words()})"
                    del workers[loop.name]
                    say(f"{loop.name} {left_out[loop.name]}")
            for number in range(args.rounds):
                say(f"round {number + 1} of {args.rounds}")
                for each, worker in workers.items():
                    time.sleep(REST)
                    rates.setdefault(each, []).append(round(worker.block(), 2))
        finally:
            for worker in workers.values():
                worker.end()
        rows = [{"loop": each, "rates": rates[each], "peak_mb": workers[each].last["peak_mb"]} for each in workers]
    return {
        "command": command_of(name, args),
        "machine": machine(pick_device(args.device)),
        "versions": versions(args, left_out),
        "data": "CIFAR-100" if args.data and name == "images" else "random",
        "steps": args.steps,
        "rows": rows,
        "left_out": left_out,
    }


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def command_of(name: str, args: argparse.Namespace) -> str:
    """Return how to measure it again, the reader's own folders and interpreters left open."""
    words = ["python benchmarks/peers.py --run", name, f"--device {args.device} --rounds {args.rounds}"]
    words += [f"--steps {args.steps}"]
    for each, what in (("repdistiller", " FOLDER"), ("mdistiller", " FOLDER"), ("timm", " FOLDER"),
                       ("torchdistill", ""), ("trl_python", " PYTHON"), ("data", " FOLDER")):  # fmt: skip
        if getattr(args, each) and (each == "data" or any(loop.given == each for loop in KINDS[name].loops)):
            words.append(f"--{each.replace('_', '-')}{what}")
    return " ".join(words)


def versions(args: argparse.Namespace, left_out: Mapping[str, str]) -> dict[str, str]:
    """Return which peers these are: of a checkout the commit, where git knows it, of a package its version."""
    import kdtool

    found = {"kdtool": kdtool.__version__}
    for each in ("repdistiller", "mdistiller", "timm"):
        if getattr(args, each):
            command = ["git", "-C", str(getattr(args, each)), "rev-parse", "--short", "HEAD"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found[each] = done.stdout.strip() or "of no known commit"
    for package, python, there in (("torchdistill", args.peers_python, args.torchdistill),
                                   ("trl", args.trl_python, args.trl_python)):  # fmt: skip
        if there:
            program = f"import importlib.metadata as m; print(m.version({package!r}))"
            done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
            found[package] = done.stdout.strip() or "missing"
    return found


# --- the page ---------------------------------------------------------------------------------------------------------


def page(folder: Path = FOUND) -> Iterator[str]:
    """Yield the section's lines, with the kinds that were measured; nothing without any."""
    files = {name: sorted(folder.glob(f"{name}-*.json")) for name in KINDS}
    if not any(files.values()):
        return
    yield "## Speed, beside peers"
    yield ""
    yield (
        "Every loop is a process of its own; all take turns in blocks of steps on the same machine. Rates are medians "
        "of the blocks; ratios are medians over the rounds, with 95% sign-test intervals. Memory is the most "
        "that a process has had resident, its libraries included, or of a card's what torch has allocated there."
    )
    yield ""
    for name, paths in files.items():
        for path in paths:
            yield from table_of(KINDS[name], json.loads(path.read_text()))


def table_of(kind: Kind, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of one run."""
    from kdtool.measure.bench.pairs import median_interval

    yield f"### {kind.title}"
    yield ""
    data = " The images are random." if kind.unit == "images" and found["data"] == "random" else ""
    yield kind.text + data
    yield ""
    yield f"| loop | {kind.unit} a second | times {kind.reference} | 95% | peak memory, MB |"
    yield "| --- | --- | --- | --- | --- |"
    (reference,) = (row["rates"] for row in found["rows"] if row["loop"] == kind.reference)
    for row in found["rows"]:
        middle, _, _ = median_interval(row["rates"])
        ratio, low, high = median_interval([mine / its for mine, its in zip(row["rates"], reference, strict=True)])
        ratios = ("1", "") if row["loop"] == kind.reference else (f"{ratio:.2f}", f"{low:.2f} to {high:.2f}")
        yield f"| {row['loop']} | {middle:,.0f} | {' | '.join(ratios)} | {row['peak_mb']:,.0f} |"
    yield ""
    if found["left_out"]:
        yield f"Left out: {'; '.join(f'{name}, {why}' for name, why in found['left_out'].items())}."
        yield ""
    where, rounds = found["machine"], len(reference)
    peers = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    yield (
        f"{rounds} rounds of {found['steps']} steps a loop. On: {where['processor']}, device {where['device']}, "
        f"{where['threads']} thread{'s' * (where['threads'] > 1)}, torch {where['torch']}; {peers}. By:"
    )
    yield ""
    yield f"    {found['command']}"
    yield ""


def main() -> None:
    """Measure, where asked to, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", choices=list(KINDS), help="measure anew; none named: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2, help="in a block")
    for name in ("repdistiller", "mdistiller", "timm"):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help="a checkout")
    parser.add_argument("--torchdistill", action="store_true", help="--peers-python imports it")
    parser.add_argument("--peers-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--trl-python", metavar="PYTHON", help="imports trl")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="CIFAR-100, as the recipes take it")
    args = parser.parse_args()
    for name in () if args.run is None else args.run or KINDS:
        found = measure(name, args)
        FOUND.mkdir(parents=True, exist_ok=True)
        (FOUND / f"{name}-{args.device.split(':')[0]}.json").write_text(json.dumps(found, indent=1) + "\n")
    marked.write(BEGIN, END, "".join(f"{line}\n" for line in page()))


if __name__ == "__main__":
    main()
