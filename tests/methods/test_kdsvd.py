from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from kdtool.errors import InputError
from kdtool_methods.kdsvd import KDSVD, right_vectors, singular_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of
from tests.methods.sentences import padded, sentences, wider


def literal(vectors):
    def told(student, teacher):
        _, values, right = torch.linalg.svd(teacher.flatten(1).T, full_matrices=False)
        theirs = [row if row[row.abs().argmax()] > 0 else -row for row in right[:vectors]]
        share = values[:vectors] / values[:vectors].norm()
        candidates = torch.linalg.svd(student.flatten(1).T, full_matrices=False)[2][: vectors + 3]
        ours = []
        for wanted in theirs:
            best = max(candidates, key=lambda row: abs((row @ wanted).item()))
            ours.append(best if best @ wanted > 0 else -best)
        return [s * v for s, v in zip(share, ours, strict=True)], [s * v for s, v in zip(share, theirs, strict=True)]

    def loss(s1, s2, s3, t1, t2, t3):
        result = 0.0
        for row in range(len(s1)):
            layers = [told(s[row], t[row].detach()) for s, t in ((s1, t1), (s2, t2), (s3, t3))]
            for (ours, theirs), (ours_next, theirs_next) in pairwise(layers):
                for a, b, c, d in zip(ours, ours_next, theirs, theirs_next, strict=True):
                    for i in range(len(a)):
                        for j in range(len(b)):
                            gap = (-((a[i] - b[j]) ** 2) / 8).exp() - (-((c[i] - d[j]) ** 2) / 8).exp()
                            result = result + gap**2
        return result / len(s1)

    return loss


@pytest.mark.parametrize("vectors", [1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_it_is_the_paper_s_loss(vectors, batch):
    shapes = [(batch, 3, 2, 3), (batch, 2, 2, 2), (batch, 5, 2, 1)]
    student = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    teacher = [random(*shape[:2], 3, 2, seed=i + 5).detach() for i, shape in enumerate(shapes)]
    assert_agrees(lambda *s: singular_loss(s, teacher, vectors), lambda *s: literal(vectors)(*s, *teacher), *student)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 6, 2, 2)])
def test_vectors_are_those_of_the_decomposition(shape):
    feat = random(*shape)
    sizes, vectors = right_vectors(feat, 2)
    _, values, right = torch.linalg.svd(feat.flatten(2).mT, full_matrices=False)
    torch.testing.assert_close(sizes / sizes[:, :1], values[:, :2] / values[:, :1])
    torch.testing.assert_close((vectors * right[:, :2].mT).sum(1).abs(), torch.ones(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["zero", "constant", "equal values", "huge", "small", "rank one"])
@pytest.mark.parametrize("size", [1, 4])
def test_gradients_stay_finite(kind, size):
    feat = {
        "zero": torch.zeros(2, 4, size, size),
        "constant": torch.ones(2, 4, size, size),
        "equal values": torch.eye(4).view(1, 4, 4).repeat(2, 1, size * size).view(2, 4, 4 * size, size),
        "huge": 1e30 * random(2, 4, size, size).detach().float(),
        "small": 1e-30 * random(2, 4, size, size).detach().float(),
        "rank one": (random(2, 4, 1, 1) * random(1, 1, size, size)).detach().float(),
    }[kind].requires_grad_()
    teacher = random(2, 4, 3, 3, seed=1).float()
    loss = singular_loss([feat, feat], [teacher, teacher.flip(1)], 2)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, feat)[0].isfinite().all()


def test_limits():
    feat = random(2, 3, 4, 4)
    assert singular_loss([feat, feat.flip(1)], [feat.detach(), feat.flip(1).detach()]).item() < 1e-20
    assert singular_loss([feat.bfloat16()] * 2, [-feat.bfloat16()] * 2).dtype == torch.float32
    with pytest.raises(ValueError, match="two or more"):
        singular_loss([feat], [feat])
    with pytest.raises(ValueError, match="channels differ"):
        singular_loss([feat, feat], [feat, feat[:, :2]])


def test_the_method_projects_what_differs_and_sums_teachers():
    setup = setup_of([(2, 4, 4), (3, 2, 2)], [[(2, 4, 4), (5, 2, 2)], [(6, 3, 3), (9, 7)]])
    method, batch = KDSVD(KDSVD.Config(weight=2.0), setup).double(), batch_of(setup)
    assert [isinstance(each, torch.nn.Identity) for each in method.projections] == [True, False, False, False]
    want = 0
    for number, out in enumerate(batch.teachers):
        theirs = [feat if feat.ndim == 4 else feat.mT[..., None] for feat in out.taps["stages"]]
        ours = [method.projections[2 * number + i](feat) for i, feat in enumerate(batch.student.taps["stages"])]
        want = want + singular_loss(ours, theirs)
    terms = method.loss(batch)
    assert list(terms) == ["singular"]
    torch.testing.assert_close(terms["singular"], 2 * want)
    every = {"stages.0", "stages.1", *(name for name, _ in method.named_parameters())}
    assert gradients(method, batch, method.loss) == every


def test_one_layer_is_refused():
    with pytest.raises(InputError, match=r"kdsvd\.layers"):
        KDSVD.taps(KDSVD.Config(layers=[1.0]))


def test_padding_does_not_count():
    shapes = {"stages": [(4, 3), (4, 2)]}
    batch = sentences(shapes, {"stages": [(4, 6), (4, 5)]})
    method = KDSVD(KDSVD.Config(), setup_of(shapes["stages"], [[(4, 6), (4, 5)]])).double()
    want = method.loss(batch)["singular"]
    for out in (batch.student, *batch.teachers):
        out.taps["stages"] = [padded(tap, 1) for tap in out.taps["stages"]]
        out.mask = wider(out.mask)
    torch.testing.assert_close(method.loss(batch)["singular"], want)
