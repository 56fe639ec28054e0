from __future__ import annotations

import pytest
import torch

from kdtool.errors import InputError
from kdtool.losses import ensemble_logits, softened_kl
from kdtool_methods.semckd import SemCKD, calibrated_loss, similarity
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of
from tests.methods.sentences import padded, sentences, wider


def literal(attention, *feats):
    (batch, students, teachers), loss = attention.shape, 0.0
    count = students * teachers
    for b in range(batch):
        for s in range(students):
            for t in range(teachers):
                ours, theirs = feats[s * teachers + t][b], feats[count + s * teachers + t][b]
                gaps = [(x - y) ** 2 for x, y in zip(ours.flatten(), theirs.flatten(), strict=True)]
                loss = loss + attention[b, s, t] * sum(gaps) / len(gaps)
    return loss / (batch * students)


def fast(attention, *feats):
    (_, students, teachers), count = attention.shape, len(feats) // 2
    rows = lambda all_: [list(all_[s * teachers : (s + 1) * teachers]) for s in range(students)]  # noqa: E731
    return calibrated_loss(rows(feats[:count]), rows(feats[count:]), attention)


@pytest.mark.parametrize(("batch", "students", "teachers"), [(2, 2, 3), (1, 3, 1), (3, 1, 2)])
def test_it_is_the_paper_s_loss(batch, students, teachers):
    attention = random(batch, students, teachers).softmax(2).detach().requires_grad_()
    shapes = [(batch, 2 + t, 2, 1 + s) for s in range(students) for t in range(teachers)]
    feats = [random(*shape, seed=number) for number, shape in enumerate(shapes + shapes, 1)]
    assert_agrees(fast, literal, attention, *feats)


def test_limits():
    feat, attention = random(2, 3, 4, 4), torch.ones(2, 1, 1)
    assert calibrated_loss([[feat]], [[feat]], attention) == 0
    assert calibrated_loss([[feat.bfloat16()]], [[-feat.bfloat16()]], attention.bfloat16()).dtype == torch.float32
    assert calibrated_loss([[1000 * feat.half()]], [[-1000 * feat.half()]], attention).isfinite()
    with pytest.raises(ValueError, match="shapes differ"):
        calibrated_loss([[feat]], [[feat[:, :2]]], attention)
    with pytest.raises(ValueError, match="1 lists of 1"):
        calibrated_loss([[feat, feat]], [[feat, feat]], attention)


@pytest.mark.parametrize("scale", [0.0, 1e-15, 1.0, 1e15])
def test_similarities_keep_their_proportions(scale):
    feat = (scale * random(3, 2, 4).detach()).float().requires_grad_()
    found = similarity(feat)
    assert torch.autograd.grad(found.sum(), feat)[0].isfinite().all()
    assert found.abs().max() <= 1.0001
    if scale:
        products = random(3, 2, 4).flatten(1) @ random(3, 2, 4).flatten(1).T
        torch.testing.assert_close(found.double(), products / products.diagonal().max(), rtol=1e-4, atol=1e-5)


SHAPES = ([(2, 4, 4), (3, 2, 2)], [[(4, 4, 4), (5, 3, 3), (4, 2, 2)], [(6, 2, 2), (9, 7), (5,)]])


def test_the_method_sums_teachers_and_trains_all_its_parts():
    torch.manual_seed(0)
    setup = setup_of(*SHAPES)
    method, batch = SemCKD(SemCKD.Config(weight=2.0, soft_weight=3.0), setup).double(), batch_of(setup)
    student, want = batch.student.taps["stages"], 0
    for calibration, out in zip(method.calibrations, batch.teachers, strict=True):
        theirs = [f if f.ndim == 4 else f.mT[..., None] if f.ndim == 3 else f[..., None, None]
                  for f in out.taps["stages"]]  # fmt: skip
        attention = calibration.attention(student, theirs)
        assert attention.shape == (4, 2, 3)
        torch.testing.assert_close(attention.sum(2), torch.ones(4, 2, dtype=torch.float64))
        pairs = [[value(a, b) for value, b in zip(row, theirs, strict=True)]
                 for row, a in zip(calibration.values, student, strict=True)]  # fmt: skip
        want = want + calibrated_loss(*([[p[i] for p in row] for row in pairs] for i in (0, 1)), attention)
    terms = method.loss(batch)
    assert list(terms) == ["calibrated", "kl"]
    torch.testing.assert_close(terms["calibrated"], 2 * want)
    teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=4.0)
    torch.testing.assert_close(terms["kl"], 3 * softened_kl(batch.student.logits, teacher, 4.0))
    found = gradients(method, batch, method.loss)
    assert {"logits", "stages.0", "stages.1"} <= found
    assert {name for name, _ in method.named_parameters() if ".values." in name} <= found
    assert any(".queries." in name for name in found)
    assert any(".keys." in name for name in found)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_batches_of_another_size_are_taken(size):
    setup = setup_of(*SHAPES)
    method = SemCKD(SemCKD.Config(), setup).double().eval()
    assert method.loss(batch_of(setup, size))["calibrated"].isfinite()


def test_sides_may_differ_in_number():
    taps = SemCKD.taps(SemCKD.Config(student_layers=["a"], teacher_layers=["b", "c"]))
    assert (taps.student, taps.teacher) == ({"stages": ["a"]}, {"stages": ["b", "c"]})
    with pytest.raises(InputError, match=r"semckd\.layers"):
        SemCKD.taps(SemCKD.Config(layers=[]))


def test_padding_does_not_count():
    shapes = {"stages": [(4, 3)]}
    batch = sentences(shapes, {"stages": [(4, 6), (4, 5)]})
    method = SemCKD(SemCKD.Config(), setup_of(shapes["stages"], [[(4, 6), (4, 5)]])).double()
    want = method.loss(batch)["calibrated"]
    for out in (batch.student, *batch.teachers):
        out.taps["stages"] = [padded(tap, 1) for tap in out.taps["stages"]]
        out.mask = wider(out.mask)
    torch.testing.assert_close(method.loss(batch)["calibrated"], want)
