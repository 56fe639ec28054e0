from __future__ import annotations

import pytest
import torch

from kdtool.errors import InputError
from kdtool_methods.fsp import FSP, flow, flow_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of
from tests.methods.sentences import padded, sentences, wider


def literal(*maps):
    def matrix(first, second):
        (c1, height, width), c2 = first.shape, len(second)
        total = lambda i, j: sum(  # noqa: E731
            first[i, y, x] * second[j, y, x] / (height * width) for y in range(height) for x in range(width)
        )
        return [total(i, j) for i in range(c1) for j in range(c2)]

    s1, s2, s3, t1, t2, t3 = maps
    loss = 0.0
    for ours, theirs in (((s1, s2), (t1, t2)), ((s2, s3), (t2, t3))):
        gaps = []
        for b in range(len(s1)):
            a, c = matrix(ours[0][b], ours[1][b]), matrix(theirs[0][b], theirs[1][b])
            gaps += [(x - y) ** 2 for x, y in zip(a, c, strict=True)]
        loss = loss + sum(gaps) / len(gaps)
    return loss


def fast(s1, s2, s3, t1, t2, t3):
    return flow_loss([(s1, s2), (s2, s3)], [(t1, t2), (t2, t3)])


@pytest.mark.parametrize("batch", [1, 2])
def test_it_is_the_paper_s_loss(batch):
    shapes = [(batch, channels, 2, 3) for channels in (2, 3, 2)] + [(batch, c, 3, 2) for c in (2, 3, 2)]
    assert_agrees(fast, literal, *(random(*shape, seed=i) for i, shape in enumerate(shapes)))


@pytest.mark.parametrize(("pool", "values"), [("max", [5.0, 7.0, 13.0, 15.0]), ("mean", [2.5, 4.5, 10.5, 12.5])])
def test_the_larger_map_shrinks(pool, values):
    large, small = torch.arange(16.0).view(1, 1, 4, 4), torch.ones(1, 1, 2, 2)
    assert flow(large, small, pool).item() == flow(small, large, pool).item() == sum(values) / 4


def test_limits():
    first, second = random(2, 3, 4, 4), random(2, 5, 2, 2, seed=1)
    pair = [(first, second)]
    same = flow_loss(pair, [(first.detach(), second.detach())])
    assert same == 0
    assert torch.autograd.grad(same, first)[0].abs().sum() == 0
    half = [(100 * first.half(), 100 * second.half())]
    assert flow_loss(half, [(-half[0][0], half[0][1])]).isfinite()
    assert flow_loss(half, half).dtype == torch.float32
    for ours, theirs, message in ((pair, [], "do not match"), (pair, [(first[:, :2], second)], "shapes differ")):
        with pytest.raises(ValueError, match=message):
            flow_loss(ours, theirs)
    with pytest.raises(ValueError, match="'max' or 'mean'"):
        flow(first, second, "sum")


def test_the_method_projects_what_differs_and_has_two_stages():
    setup = setup_of([(2, 4, 4), (3, 2, 2)], [[(2, 4, 4), (5, 2, 2)], [(6, 3, 3), (9, 7)]])
    method, batch = FSP(FSP.Config(weight=2.0), setup).double(), batch_of(setup)
    init, distill = method.stages()
    assert (init.task_weight, init.epochs, distill.task_weight, distill.loss(batch)) == (0.0, 0.3, 1.0, {})
    assert [isinstance(each, torch.nn.Identity) for each in method.projections] == [True, False, False, False]
    ours = batch.student.taps["stages"]
    want = 0
    for number, out in enumerate(batch.teachers):
        theirs = [feat if feat.ndim == 4 else feat.mT[..., None] for feat in out.taps["stages"]]
        a, b = (method.projections[2 * number + i](feat) for i, feat in enumerate(ours))
        want = want + flow_loss([(a, b)], [(theirs[0], theirs[1])])
    terms = init.loss(batch)
    assert list(terms) == ["flow"]
    torch.testing.assert_close(terms["flow"], 2 * want)
    every = {"stages.0", "stages.1", *(name for name, _ in method.named_parameters())}
    assert gradients(method, batch, init.loss) == every


def test_one_layer_is_refused():
    with pytest.raises(InputError, match=r"fsp\.layers"):
        FSP.taps(FSP.Config(layers=[1.0]))


def test_padding_does_not_count():
    shapes = {"stages": [(4, 3), (4, 2)]}
    batch = sentences(shapes, {"stages": [(4, 6), (4, 5)]})
    method = FSP(FSP.Config(), setup_of(shapes["stages"], [[(4, 6), (4, 5)]])).double()
    want = method.flows(batch)["flow"]
    for out in (batch.student, *batch.teachers):
        out.taps["stages"] = [padded(tap, 1) for tap in out.taps["stages"]]
        out.mask = wider(out.mask)
    torch.testing.assert_close(method.flows(batch)["flow"], want)
