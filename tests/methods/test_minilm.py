"""MiniLM against Wang et al. (2020, 2021), head by head and row by row."""

from __future__ import annotations

import pytest
import torch

from kdtool.errors import InputError
from kdtool_methods.minilm import MiniLM, relation_loss
from tests.methods.pairs import assert_agrees, random
from tests.methods.sentences import (
    LENGTHS,
    alike,
    assert_padding_does_not_count,
    mask_of,
    padded,
    reached,
    real,
    sentences,
    setup_of,
    wider,
)


def log_row(x, y, b, i, head, heads, mask):
    part = x.shape[2] // heads
    at = range(head * part, (head + 1) * part)
    keys = [j for sentence, j in real(mask) if sentence == b]
    scores = [sum(x[b, i, d] * y[b, j, d] for d in at) / part**0.5 for j in keys]
    norm = sum(score.exp() for score in scores).log()
    return [score - norm for score in scores]


def literal(mask, heads):
    def loss(s, t, s_keys=None, t_keys=None):
        s_keys, t_keys = s if s_keys is None else s_keys, t if t_keys is None else t_keys
        total, count = 0.0, 0
        for b, i in real(mask):
            for head in range(heads):
                ours, theirs = log_row(s, s_keys, b, i, head, heads, mask), log_row(t, t_keys, b, i, head, heads, mask)
                total = total + sum(q.exp() * (q - p) for p, q in zip(ours, theirs, strict=True))
                count += 1
        return total / count

    return loss


@pytest.mark.parametrize("lengths", [(4, 1, 3), (2, 2), (3,), (2, 0, 3)])
@pytest.mark.parametrize("heads", [1, 2])
def test_it_is_the_equation(lengths, heads):
    mask, size = mask_of(*lengths), (len(lengths), max(lengths))
    fast = lambda s, t: relation_loss(s, t, mask, heads)  # noqa: E731
    assert_agrees(fast, literal(mask, heads), random(*size, 4), random(*size, 6, seed=1))


def test_queries_against_keys_are_the_attention():
    mask, inputs = mask_of(*LENGTHS), [random(3, 4, width, seed=n) for n, width in enumerate((4, 6, 4, 6))]
    fast = lambda *x: relation_loss(*x[:2], mask, 2, student_keys=x[2], teacher_keys=x[3])  # noqa: E731
    assert_agrees(fast, literal(mask, 2), *inputs)


def test_without_a_mask_all_tokens_are_real():
    assert_agrees(relation_loss, literal(mask_of(3, 3), 1), random(2, 3, 4), random(2, 3, 2, seed=1))


@pytest.mark.parametrize("value", [0.0, 7.0, float("inf"), float("nan")])
def test_more_padding_changes_nothing(value):
    mask, student, teacher = mask_of(*LENGTHS), random(3, 4, 4), random(3, 4, 6, seed=1)
    loss = relation_loss(student, teacher, mask, 2)
    longer = relation_loss(padded(student, 1, value=value), padded(teacher, 1, value=value), wider(mask), 2)
    torch.testing.assert_close(longer, loss, rtol=1e-13, atol=0)
    grads = [torch.autograd.grad(each, student)[0] for each in (longer, loss)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-15)
    assert not grads[0][~mask].any()


def test_limits():
    feat, mask = random(3, 4, 4), mask_of(*LENGTHS)
    same = relation_loss(feat, feat.detach(), mask, 2)
    assert same.item() == 0
    assert torch.autograd.grad(same, feat)[0].abs().max() < 1e-15
    assert relation_loss(feat, 2 * feat, torch.zeros_like(mask), 2).item() == 0
    assert relation_loss(feat, 2 * feat, mask.long(), 2) == relation_loss(feat, 2 * feat, mask, 2)
    single = relation_loss(feat[:, :1], 2 * feat[:, :1])
    assert single.item() == 0  # one token relates to itself alone
    for student in (torch.zeros(3, 4, 4), 1e4 * feat.detach().float()):
        student.requires_grad_()
        for lengths in (LENGTHS, (4, 0, 3)):
            loss = relation_loss(student, 1e4 * random(3, 4, 6, seed=1).detach().float(), mask_of(*lengths), 2)
            assert loss.isfinite()
            assert torch.autograd.grad(loss, student)[0].isfinite().all()
    with pytest.raises(ValueError, match="sequences differ"):
        relation_loss(feat, feat[:, :2])
    with pytest.raises(ValueError, match="3 relation heads do not divide a width of 4"):
        relation_loss(feat, feat, mask, 3)


def test_half_precision_and_autocast_compute_in_fp32():
    student, teacher, mask = random(3, 4, 4).bfloat16(), random(3, 4, 6, seed=1).bfloat16(), mask_of(*LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = relation_loss(student, teacher, mask, 2)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(relation_loss(student.double(), teacher.double(), mask, 2).item(), rel=1e-5)


def build(student, *teachers, **options):
    setup = setup_of({"vectors": student}, *({"vectors": shapes} for shapes in teachers))
    return MiniLM(MiniLM.Config(**options), setup), sentences(setup.student, *setup.teachers)


def test_by_default_it_relates_hidden_states():
    assert MiniLM.taps(MiniLM.Config()).student == {"vectors": [0.87]}
    method, batch = build([(4, 16)], [(4, 24)], [(4, 32)], weight=3.0)
    assert method.heads == [2, 2]
    (ours,), mask = batch.student.taps["vectors"], batch.student.mask
    want = 3 * sum(alike(lambda row: literal(row, 2), mask)(ours, out.taps["vectors"][0]) for out in batch.teachers)
    terms = method.loss(batch)
    assert list(terms) == ["relations"]
    torch.testing.assert_close(terms["relations"], want)
    assert reached(method, batch, method.loss) == {"vectors.0"}
    assert method.stages()[0].task_weight == 1.0


def test_queries_keys_and_values_are_those_of_the_last_attention_or_of_a_depth():
    assert MiniLM.taps(MiniLM.Config(qkv=True)).student == {"vectors": [f"{x}:1.000000" for x in KINDS]}
    taps = MiniLM.taps(MiniLM.Config(qkv=True, depth=0.5, teacher_depth=0.75))
    assert taps.student == {"vectors": [f"{x}:0.500000" for x in KINDS]}
    assert taps.teacher == {"vectors": [f"{x}:0.750000" for x in KINDS]}
    assert MiniLM.taps(MiniLM.Config(teacher_depth=1.0)).teacher == {"vectors": [1.0]}
    method, batch = build([(4, 4)] * 3, [(4, 6)] * 3, qkv=True, heads=2)
    pairs = list(zip(batch.student.taps["vectors"], batch.teachers[0].taps["vectors"], strict=True))
    want = sum(alike(lambda row: literal(row, 2), batch.student.mask)(*pair) for pair in pairs) / 3
    torch.testing.assert_close(method.loss(batch)["relations"], want)


KINDS = ("queries", "keys", "values")
QKV = {"student_qkv": ["q", "k", "v"], "teacher_qkv": ["qkv"], "heads": 2}


def test_version_2_relates_queries_keys_and_values_alike():
    assert MiniLM.taps(MiniLM.Config(**QKV)).teacher == {"vectors": ["qkv"]}
    method, batch = build([(4, 4)] * 3, [(4, 18)], **QKV)
    theirs = batch.teachers[0].taps["vectors"][0].split(6, dim=2)
    pairs = list(zip(batch.student.taps["vectors"], theirs, strict=True))
    want = sum(alike(lambda row: literal(row, 2), batch.student.mask)(*pair) for pair in pairs) / 3
    torch.testing.assert_close(method.loss(batch)["relations"], want)
    assert reached(method, batch, method.loss) == {"vectors.0", "vectors.1", "vectors.2"}


def test_version_1_relates_queries_with_keys_and_values_with_values():
    method, batch = build([(4, 4)] * 3, [(4, 18)], version=1, **QKV)
    (s_q, s_k, s_v), loss = batch.student.taps["vectors"], alike(lambda row: literal(row, 2), batch.student.mask)
    t_q, t_k, t_v = batch.teachers[0].taps["vectors"][0].split(6, dim=2)
    torch.testing.assert_close(method.loss(batch)["relations"], loss(s_q, t_q, s_k, t_k) + loss(s_v, t_v))


def test_a_map_that_gives_all_three_is_cut_along_its_channels():
    names = {"student_qkv": ["qkv"], "teacher_qkv": ["qkv"]}
    method, batch = build([(6, 2, 2)], [(6, 2, 2)], **names)
    batch.student.mask = None
    sides = [out.taps["vectors"][0].flatten(2).mT.split(2, dim=2) for out in (batch.student, *batch.teachers)]
    want = sum(literal(mask_of(4, 4, 4), 1)(*pair) for pair in zip(*sides, strict=True)) / 3
    torch.testing.assert_close(method.loss(batch)["relations"], want)


@pytest.mark.parametrize("options", [{}, QKV, {"version": 1, **QKV}])
def test_padding_does_not_count(options):
    shapes = ([(4, 4)] * 3, [(4, 18)]) if options else ([(4, 16)], [(4, 24)])
    assert_padding_does_not_count(*build(*shapes, **options))


@pytest.mark.parametrize(
    ("widths", "heads"),
    [((384, 768), 48), ((768, 1024), 32), ((128, 768), 16), ((64, 96), 8), ((7, 9), 1), ((4, 4), 1)],
)
def test_the_most_relation_heads_up_to_the_papers(widths, heads):
    setup = setup_of({"vectors": [(4, widths[0])]}, {"vectors": [(4, widths[1])]})
    assert MiniLM(MiniLM.Config(), setup).heads == [heads]


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="go together"):
        MiniLM.taps(MiniLM.Config(student_qkv=["a"]))
    with pytest.raises(InputError, match=r"minilm\.teacher_qkv needs 3 names, or one of all three, not 2"):
        MiniLM.taps(MiniLM.Config(student_qkv=["a"], teacher_qkv=["b", "c"]))
    with pytest.raises(InputError, match=r"minilm\.heads=5 does not divide the widths 16 and 24"):
        build([(4, 16)], [(4, 24)], heads=5)
    with pytest.raises(InputError, match="share one only"):
        build([(16, 1, 1)], [(24, 2, 2)])
    build([(1, 16)], [(1, 24)])  # a sentence has more tokens than the dry one
