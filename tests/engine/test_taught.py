"""Teachers that speak of some rows only: a method's means are over these, whatever a batch is split into."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

from kdtool.engine import rows as engine_rows
from kdtool.engine.job import Loaded
from kdtool.engine.step import TASK
from kdtool.engine.update import Updater, When
from kdtool.losses import softened_kl
from tests.engine import tiny
from tests.engine.test_chunks import Later, updater
from tests.engine.test_rows import COUNTS, whole

KNOWN = torch.tensor([0, 1, 0, 0, 0, 1, 0, 0, 1, 1, 0], dtype=torch.bool)
"""Of eleven rows of four samples: of the first and the third sample none is known."""

NONE = torch.zeros_like(KNOWN)
Gradients = dict[str, Tensor]


def batch(known: Tensor = KNOWN) -> Loaded:
    return replace(whole(), taught=known)


def backward(of: Updater, loaded: Loaded, pieces: int = 1) -> tuple[Gradients, Gradients]:
    """Return the gradients by parameter, and the terms."""
    result, _ = of._backward(loaded, When(0, 0.0, 0), pieces, False, None)
    terms = {name: value.detach() for name, value in result.terms.items()}
    return {name: p.grad.clone() for name, p in of.step.named_parameters() if p.grad is not None}, terms


def literal(of: Updater) -> Gradients:
    """Return the terms: hard labels of all labelled rows, the method's of the rows that are known."""
    loaded = whole()
    logits, taps = Later(0, late=False).double()(loaded.inputs)
    taught, theirs = Later(5, late=False).double()(loaded.inputs)
    adapt: Any = of.step.method.adapt  # type: ignore[union-attr]
    rows = [row for row in range(sum(COUNTS)) if KNOWN[row]]
    fitted = adapt(taps["hidden"][rows]) + taps["each"][0][rows]
    return {
        "kl": softened_kl(logits[rows], taught[rows], 2.0),
        "fit": (fitted - theirs["hidden"][rows]).square().mean(),
        TASK: F.cross_entropy(logits, loaded.labels, ignore_index=-1),
    }


def assert_close(got: Gradients, want: Gradients) -> None:
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name].detach(), rtol=1e-9, atol=1e-11)


def test_a_methods_means_are_over_the_known_rows(tmp_path: Path) -> None:
    one = updater(tmp_path, late=False)
    _, terms = backward(one, batch())
    want = literal(one)
    assert_close({name: terms[name] for name in want}, want)


@pytest.mark.parametrize("method", ["fit", "combined", "global"])
@pytest.mark.parametrize("pieces", [1, 3, 4])
@pytest.mark.parametrize("rows", [1, 4, 128])
def test_whatever_a_batch_is_split_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, pieces: int, method: str
) -> None:
    want, terms = backward(updater(tmp_path, late=False, method=method), batch())
    assert any(name.endswith("adapt.weight") for name in want)
    monkeypatch.setattr(engine_rows, "CHUNK", rows)
    got, parts = backward(updater(tmp_path, method=method), batch(), pieces)
    assert_close(got, want)
    assert_close(parts, terms)


@pytest.mark.parametrize("rows", [2, 128])
def test_where_none_is_known_the_text_alone_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(engine_rows, "CHUNK", rows)
    got, terms = backward(updater(tmp_path), batch(NONE), 3)
    assert terms.pop(TASK) > 0
    assert all(float(each) == 0 for each in terms.values())
    assert all(each.isfinite().all() for each in got.values())


@pytest.mark.parametrize("rows", [3, 128])
def test_what_stands_in_other_rows_never_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(engine_rows, "CHUNK", rows)
    want, terms = backward(updater(tmp_path), batch())
    other = updater(tmp_path)
    teaching: Any = other.teaching

    def changed(part: Loaded) -> Any:
        (out,) = teaching(part)
        hidden = torch.where(KNOWN[:, None], out.logits.hidden_RD, 7.0)
        return [replace(out, logits=out.logits.of(hidden))]

    other.teaching = changed  # type: ignore[assignment]
    got, same = backward(other, batch())
    assert_close(got, want)
    assert_close(same, terms)


def _process(rank: int, folder: str) -> None:
    from torch.nn.parallel import DistributedDataParallel

    os.environ.update(RANK=str(rank), WORLD_SIZE="2", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    own = batch().parts((1, 3))[rank]  # the first process has no known row at all
    got, terms = backward(updater(Path(folder), wrapped=DistributedDataParallel), own, 1 + rank)
    total = torch.stack(list(terms.values()))
    torch.distributed.all_reduce(total)
    if rank == 0:
        torch.save((got, dict(zip(terms, total / 2, strict=True))), f"{folder}/found.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    mp.spawn(_process, (str(tmp_path),), nprocs=2)
    got, terms = torch.load(tmp_path / "found.pt")
    want, whole_terms = backward(updater(tmp_path, late=False), batch())
    assert_close(got, want)
    assert_close(terms, whole_terms)


def test_a_part_keeps_its_rows() -> None:
    parts = batch().parts((1, 3))
    assert [each.taught.tolist() for each in parts if each.taught is not None] == [[False], KNOWN[1:].tolist()]
    assert whole().parts((1, 3))[0].taught is None


def test_the_tiny_task_is_what_the_literal_reading_speaks_of() -> None:
    assert Later(0)(whole().inputs)[0].shape == (len(KNOWN), tiny.CLASSES)
