from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdtool.errors import InputError
from kdtool_methods.reviewkd import ReviewKD, hierarchical_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of
from tests.methods.sentences import padded, sentences, wider


def literal(student, teacher):
    def mean_square(a, b):
        gaps = [(x - y) ** 2 for x, y in zip(a.flatten(), b.flatten(), strict=True)]
        return sum(gaps) / len(gaps)

    def pooled(feat, size):
        (_, _, height, width) = feat.shape
        rows = []
        for i in range(size):
            for j in range(size):
                top, bottom = i * height // size, -(-(i + 1) * height // size)
                left, right = j * width // size, -(-(j + 1) * width // size)
                rows.append(feat[:, :, top:bottom, left:right].mean((2, 3)))
        return torch.stack(rows, 2)

    loss, weights = mean_square(student, teacher), 1.0
    levels = [size for size in (4, 2, 1) if size < student.shape[2]]
    for number, size in enumerate(levels, 1):
        loss = loss + 0.5**number * mean_square(pooled(student, size), pooled(teacher, size))
        weights += 0.5**number
    return loss / weights


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (3, 2, 5, 7), (2, 2, 4, 4), (1, 3, 2, 2), (2, 4, 1, 1), (2, 2, 6, 1)])
def test_it_is_the_paper_s_loss(shape):
    assert_agrees(hierarchical_loss, literal, random(*shape), random(*shape, seed=1))


def test_limits():
    feat = random(2, 3, 4, 4)
    same = hierarchical_loss(feat, feat.detach())
    assert same == 0
    assert torch.autograd.grad(same, feat)[0].abs().sum() == 0
    assert hierarchical_loss(feat.bfloat16(), 2 * feat.bfloat16()).dtype == torch.float32
    assert hierarchical_loss((100 * feat).half(), -(100 * feat).half()).isfinite()
    with pytest.raises(ValueError, match="shapes differ"):
        hierarchical_loss(feat, feat[:, :2])


SHAPES = ([(2, 8, 8), (3, 4, 4), (5,)], [[(4, 8, 8), (5, 4, 4), (6,)], [(4, 4, 4), (9, 6), (7,)]])


def test_the_method_sums_levels_and_teachers_and_trains_all_its_parts():
    setup = setup_of(*SHAPES)
    method, batch = ReviewKD(ReviewKD.Config(weight=2.0), setup).double(), batch_of(setup)
    want = 0
    for review, out in zip(method.reviews, batch.teachers, strict=True):
        ours = [f if f.ndim == 4 else f[:, :, None, None] for f in batch.student.taps["stages"]]
        theirs = [f if f.ndim == 4 else f[:, :, None, None] if f.ndim == 2 else f.mT[..., None]
                  for f in out.taps["stages"]]  # fmt: skip
        want = want + sum(hierarchical_loss(a, b) for a, b in zip(review(ours), theirs, strict=True))
    terms = method.loss(batch)
    assert list(terms) == ["review"]
    torch.testing.assert_close(terms["review"], 2 * want)
    every = {"stages.0", "stages.1", "stages.2", *(name for name, _ in method.named_parameters())}
    assert gradients(method, batch, method.loss) == every


def test_a_level_is_fused_with_the_deeper_ones_as_in_the_paper():
    review = ReviewKD(ReviewKD.Config(), setup_of([(2, 4, 4), (3, 2, 2)], [[(4, 8, 8), (5, 2, 2)]])).double().reviews[0]
    assert all(block[0].out_channels == 3 for block in (fusion.enter for fusion in review.fusions))
    first, second = random(2, 2, 4, 4), random(2, 3, 2, 2, seed=1)
    shallow, deep = review.fusions
    residual = deep.enter(second)
    x, y = shallow.enter(first), F.interpolate(residual, (4, 4), mode="nearest")
    gate = torch.sigmoid(F.conv2d(torch.cat([x, y], 1), shallow.attention.weight, shallow.attention.bias))
    fused = F.interpolate(x * gate[:, 0:1] + y * gate[:, 1:2], (8, 8), mode="nearest")
    got = review([first, second])
    torch.testing.assert_close(got[0], shallow.leave(fused))
    torch.testing.assert_close(got[1], deep.leave(residual))


@pytest.mark.parametrize(
    ("warmup", "epoch", "progress", "share"),
    [(None, 0, 0.0, 0.0), (None, 0, 1 / 24, 0.5), (None, 9, 0.5, 1.0), (4, 0, 0.9, 0.0), (4, 1, 0.0, 0.25),
     (4, 7, 0.0, 1.0), (0, 0, 0.0, 1.0)],
)  # fmt: skip
def test_the_weight_rises(warmup, epoch, progress, share):
    setup = setup_of([(2, 4, 4)], [[(4, 4, 4)]])
    method, batch = ReviewKD(ReviewKD.Config(warmup=warmup), setup), batch_of(setup)
    batch.epoch, batch.progress = epoch, progress
    assert method.rise(batch) == pytest.approx(share)


def test_levels_pair_by_depth_or_by_name_and_end_in_the_embedding():
    assert ReviewKD.taps(ReviewKD.Config()).student == {"stages": [0.33, 0.67, 1.0, "embedding"]}
    taps = ReviewKD.taps(ReviewKD.Config(student_layers=["a"], teacher_layers=["b"], embedding=False))
    assert (taps.student, taps.teacher) == ({"stages": ["a"]}, {"stages": ["b"]})
    with pytest.raises(InputError, match="do not pair"):
        ReviewKD.taps(ReviewKD.Config(student_layers=["a"]))


def test_padding_does_not_count():
    shapes = {"stages": [(4, 3), (4, 5)]}
    batch = sentences(shapes, {"stages": [(4, 6), (4, 7)]})
    batch.progress = 0.5
    method = ReviewKD(ReviewKD.Config(), setup_of(shapes["stages"], [[(4, 6), (4, 7)]])).double()
    want = method.loss(batch)["review"]
    for out in (batch.student, *batch.teachers):
        out.taps["stages"] = [padded(tap, 1) for tap in out.taps["stages"]]
        out.mask = wider(out.mask)
    torch.testing.assert_close(method.loss(batch)["review"], want)
