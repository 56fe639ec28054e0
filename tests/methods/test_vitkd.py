from __future__ import annotations

import pytest
import torch

from kdtool.errors import InputError
from kdtool.layers import resize_map
from kdtool_methods._masking import draws, masked_exactly
from kdtool_methods.vitkd import ViTKD, as_tokens, generation_loss, mimic_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of
from tests.methods.sentences import padded, sentences, wider

MASK = torch.tensor([[True, False, True], [False, False, True]])


def literal(student, teacher):
    return sum((a - b) ** 2 for a, b in zip(student.flatten(), teacher.flatten(), strict=True)) / len(student)


def masked_literal(student, teacher):
    return sum(
        (a - b) ** 2
        for row in range(2)
        for n in range(3)
        if MASK[row, n]
        for a, b in zip(student[row, n], teacher[row, n], strict=True)
    ) / len(student)


def test_they_are_the_paper_s_losses():
    assert_agrees(mimic_loss, literal, random(2, 3, 4), random(2, 3, 4, seed=1))
    fast = lambda s, t: generation_loss(s, t, MASK)  # noqa: E731
    assert_agrees(fast, masked_literal, random(2, 3, 4), random(2, 3, 4, seed=1))


def test_limits():
    feat = random(2, 3, 4)
    assert mimic_loss(feat, feat) == 0
    assert generation_loss(feat, feat, MASK) == 0
    assert generation_loss(feat, -feat, torch.zeros(2, 3, dtype=torch.bool)) == 0
    for loss in (mimic_loss, lambda s, t: generation_loss(s, t, MASK)):
        assert loss(feat.bfloat16(), -feat.bfloat16()).dtype == torch.float32
        assert loss((10000 * feat).half(), (-10000 * feat).half()).isfinite()
        with pytest.raises(ValueError, match="shapes differ"):
            loss(feat, feat[:, :, :2])


def build(**options):
    setup = setup_of(
        [(2, 4, 4), (4, 4, 4), (3, 2, 2)], [[(2, 4, 4), (5, 4, 4), (5, 3, 3)], [(6, 2, 2), (4, 2, 2), (9, 3)]]
    )
    return ViTKD(ViTKD.Config(**options), setup).double(), batch_of(setup)


def test_the_method_mimics_shallow_layers_and_generates_the_deep_one():
    method, batch = build(mimic_weight=2.0, generate_weight=3.0, ratio=0.4)
    maps, mimic, generation = batch.student.taps["stages"], 0, 0
    for number, out in enumerate(batch.teachers):
        theirs = [feat if feat.ndim == 4 else feat.mT[..., None] for feat in out.taps["stages"]]
        for layer in (0, 1):
            aligned = resize_map(method.aligns[number][layer](maps[layer]), theirs[layer].shape[2:])
            mimic = mimic + mimic_loss(as_tokens(aligned), as_tokens(theirs[layer]))
        masked = masked_exactly(draws(batch.index, 0, number, 9), 0.4)
        assert (masked.sum(1) == 9 - int(0.6 * 9)).all()
        generator = method.generators[number]
        generation = generation + generation_loss(generator(maps[2], masked), as_tokens(theirs[2]), masked)
    terms = method.loss(batch)
    assert list(terms) == ["mimic", "generation"]
    torch.testing.assert_close(terms["mimic"], 2 * mimic)
    torch.testing.assert_close(terms["generation"], 3 / 0.4 * generation)
    every = {"stages.0", "stages.1", "stages.2", *(name for name, _ in method.named_parameters())}
    assert gradients(method, batch, method.loss) == every


def test_what_is_hidden_has_no_effect():
    method, batch = build()
    generator, feat = method.generators[0], random(4, 5, 3, 3)
    generator.align = torch.nn.Identity()
    masked = masked_exactly(draws(batch.index, 0, 0, 9), 0.5)
    (grad,) = torch.autograd.grad(generator(feat, masked).square().sum(), feat)
    assert torch.equal(as_tokens(grad).abs().sum(2) > 0, ~masked)


def test_masks_change_with_the_epoch_and_nothing_else():
    method, batch = build()
    first = method.loss(batch)["generation"]
    assert torch.equal(method.loss(batch)["generation"], first)
    batch.epoch = 1
    assert not torch.equal(method.loss(batch)["generation"], first)


def test_the_default_weights_are_the_paper_s_on_tokens_of_its_size():
    setup = setup_of([(196, 384)] * 2, [[(196, 384)] * 2])
    method, batch = ViTKD(ViTKD.Config(), setup).double(), batch_of(setup, 1)
    ours, theirs = batch.student.taps["stages"], batch.teachers[0].taps["stages"]
    torch.testing.assert_close(method.mimic(0, [ours[0].mT[..., None]], [theirs[0].mT[..., None]])[0],
                               3e-5 * mimic_loss(ours[0], theirs[0]))  # fmt: skip


def test_layers_pair_by_depth_or_by_name():
    assert ViTKD.taps(ViTKD.Config()).student == {"stages": [0.0, 0.09, 1.0]}
    assert list(ViTKD.taps(ViTKD.Config(shallow=[])).teacher["stages"]) == [1.0]
    with pytest.raises(InputError, match=r"vitkd\.student_layers"):
        ViTKD.taps(ViTKD.Config(student_layers=["a"]))


def test_padding_does_not_count():
    shapes = {"stages": [(4, 3), (4, 2)]}
    batch = sentences(shapes, {"stages": [(4, 6), (4, 5)]})
    method = ViTKD(ViTKD.Config(), setup_of(shapes["stages"], [[(4, 6), (4, 5)]])).double()
    want = method.loss(batch)
    for out in (batch.student, *batch.teachers):
        out.taps["stages"] = [padded(tap, 1) for tap in out.taps["stages"]]
        out.mask = wider(out.mask)
    for name, term in method.loss(batch).items():
        torch.testing.assert_close(term, want[name])
