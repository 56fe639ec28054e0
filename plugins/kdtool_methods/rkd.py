"""Relational Knowledge Distillation. Park et al., CVPR 2019. https://arxiv.org/abs/1904.05068

As in the authors' code, the difference of a sample and itself, or of two equal embeddings, has the direction zero:
its cosines are 0. Here it also has no gradient (the authors' grows to 1e12 where the teacher tells the two apart).
Embeddings that their type (at least fp32) could hardly tell apart count as equal: the direction between them is that of
a rounding error, or of an activation that has all but died, and its gradient is one over their distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdtool import Batch, Method, Taps, option
from kdtool.losses import at_least_fp32, widened
from kdtool_methods._related import RelatedLayers, related, related_taps


class _Size(NamedTuple):
    """How much is computed at a time.

    Attributes:
        block: samples along each side of a tile.
        anchors: for which a tile's vectors are laid out at a time.
        chunk: entries of a tile's work space.
    """

    block: int
    anchors: int
    chunk: int


_ON_CPU = _Size(128, 256, 1 << 17)  # a smaller chunk, and two threads wait for the interpreter's lock
_ELSEWHERE = _Size(256, 1024, 1 << 23)  # where starting an operation costs more than its arithmetic
_EQUAL = 4  # times the rounding of its type, of the larger embedding's length
_WORKERS = 4  # each holds a matrix of its own, so that sums keep their order


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the distance-wise loss: Huber of the pairs' distances, each side's over its mean non-zero distance.

    Args:
        student: embeddings (B, D).
        teacher: embeddings (B, D'); any width.

    Returns:
        The mean over all B^2 entries, the zero diagonal included.

    Raises:
        ValueError: the batches differ in size, or the embeddings are no vectors.
    """
    return _distance_term(*_distances_of(student, teacher)).to(at_least_fp32(student).dtype)


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the angle-wise loss: Huber of the cosines of the angles at i between j and k, for all triplets.

    Holds a few (B, B) matrices; never all angles, nor all differences of embeddings.

    Args:
        student: embeddings (B, D).
        teacher: embeddings (B, D'); any width.

    Returns:
        The mean over all B^3 entries, degenerate triplets (cosine 0) included.

    Raises:
        ValueError: the batches differ in size, or the embeddings are no vectors.
    """
    return _angle_term(*_distances_of(student, teacher)).to(at_least_fp32(student).dtype)


def _distances_of(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise ValueError(
            f"embeddings must be (B, D) with equal B: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        )
    student_BB: Tensor = _Distances.apply(student)
    teacher_BB: Tensor = _Distances.apply(teacher)
    return student_BB, teacher_BB


def _distance_term(student_BB: Tensor, teacher_BB: Tensor) -> Tensor:
    return F.smooth_l1_loss(_over_mean(student_BB), _over_mean(teacher_BB))


def _over_mean(distance_BB: Tensor) -> Tensor:
    count = (distance_BB > 0).sum()
    mean = distance_BB.sum() / count.clamp_min(1)
    return distance_BB / torch.where(count > 0, mean, 1.0)


def _angle_term(student_BB: Tensor, teacher_BB: Tensor) -> Tensor:
    loss: Tensor = _Angles.apply(student_BB, teacher_BB)
    return loss


def _inverse(distance_BB: Tensor) -> Tensor:
    return distance_BB.reciprocal().masked_fill_(distance_BB == 0, 0.0)


class _Distances(torch.autograd.Function):
    """Euclidean distances (B, B) of embeddings (B, D): exact zeros, without gradient, for rows that count as equal.

    In float64 where the device has it: an angle at a near neighbour is a small difference of large numbers.
    """

    @staticmethod
    def forward(ctx: Any, embedding_BD: Tensor) -> Tensor:
        wide_BD = widened(embedding_BD)
        distance_BB = torch.cdist(wide_BD, wide_BD, compute_mode="donot_use_mm_for_euclid_dist")
        length_B = torch.linalg.vector_norm(wide_BD, dim=1)
        equal = _EQUAL * torch.finfo(at_least_fp32(embedding_BD).dtype).eps
        distance_BB.masked_fill_(distance_BB <= equal * torch.maximum(length_B[:, None], length_B), 0.0)
        ctx.save_for_backward(embedding_BD, distance_BB)
        return distance_BB

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        embedding_BD, distance_BB = ctx.saved_tensors
        centred_BD = widened(embedding_BD)
        centred_BD = centred_BD - centred_BD.mean(0)  # distances do not see the mean; rounding does
        with torch.autocast(embedding_BD.device.type, enabled=False):
            pull_BB = (grads[0] + grads[0].T).mul_(_inverse(distance_BB))
            grad_BD = pull_BB.sum(1, keepdim=True) * centred_BD - pull_BB @ centred_BD
        narrow_BD: Tensor = grad_BD.to(embedding_BD.dtype)
        return narrow_BD


class _Angles(torch.autograd.Function):
    """Mean Huber loss of all triplets' cosines, from both sides' distances (B, B)."""

    @staticmethod
    def forward(ctx: Any, student_BB: Tensor, teacher_BB: Tensor) -> Tensor:
        loss: Tensor
        loss, grad_BB = _triplets(student_BB, teacher_BB)
        ctx.save_for_backward(grad_BB, *((student_BB, teacher_BB) if ctx.needs_input_grad[1] else ()))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        grad_BB, *both = ctx.saved_tensors
        # A teacher that trains too is rare, and the loss is symmetric: exchange the sides.
        teacher = grads[0] * _triplets(both[1], both[0])[1] if both else None
        return grads[0] * grad_BB, teacher


def _size_on(device: torch.device) -> _Size:
    return _ON_CPU if device.type == "cpu" else _ELSEWHERE


def sum_triplets(student_BB: Tensor, teacher_BB: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient for the student's distances.

    The law of cosines gives the cosine at i between j and k from distances alone:
    C = (d_ij / d_ik + d_ik / d_ij - d_jk^2 / (d_ij d_ik)) / 2. It is symmetric in j and k, so only tiles of (j, k) on
    and above the diagonal are visited, each for all i. The gradient stands in either triangle: ``_Distances`` adds
    them.
    """
    size, block = len(student_BB), _size_on(student_BB.device).block
    blocks = [slice(start, min(start + block, size)) for start in range(0, size, block)]
    tiles = [(rows, columns) for i, rows in enumerate(blocks) for columns in blocks[i:]]
    sides = _Sides(student_BB, _inverse(student_BB), teacher_BB, _inverse(teacher_BB))
    with _serial_operations(student_BB.device) as threads:
        workers = max(1, min(threads, _WORKERS, len(tiles)))
        shares = [tiles[worker::workers] for worker in range(workers)]
        if workers == 1:
            results = [_sum_tiles(sides, tiles)]
        else:
            with ThreadPoolExecutor(workers) as pool:
                results = list(pool.map(partial(_sum_tiles, sides), shares))
    loss, grad_BB = results[0]
    for more_loss, more_grad_BB in results[1:]:
        loss += more_loss
        grad_BB += more_grad_BB
    count = max(size, 1) ** 3
    return loss / count, grad_BB.div_(count)


_triplets = torch.library.custom_op(  # opaque to torch.compile, which would unroll the loops
    "kdtool_methods::rkd_triplets", mutates_args=(), schema="(Tensor student, Tensor teacher) -> (Tensor, Tensor)"
)(sum_triplets)


@_triplets.register_fake
def _(student_BB: Tensor, teacher_BB: Tensor) -> tuple[Tensor, Tensor]:
    return student_BB.new_empty(()), torch.empty_like(student_BB)


@contextmanager
def _serial_operations(device: torch.device) -> Iterator[int]:
    """Give each operation one thread, and return how many may run side by side.

    Thousands of small operations follow. Were each split over threads, then one thread that waits for a busy core
    would hold up all, every time: seen to take a minute instead of a second.
    """
    if device.type != "cpu":
        yield 1
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


class _Sides(NamedTuple):
    """Distances and their inverses (0 for 0), all (B, B), of student and teacher."""

    d: Tensor
    r: Tensor
    teacher_d: Tensor
    teacher_r: Tensor


@torch.no_grad()
def _sum_tiles(sides: _Sides, tiles: list[tuple[slice, slice]]) -> tuple[Tensor, Tensor]:
    """Return the summed loss and gradient (B, B) of some tiles."""
    loss, grad_BB, step = sides.d.new_zeros(()), torch.zeros_like(sides.d), _size_on(sides.d.device).anchors
    for rows, columns in tiles:
        twice = 1 if rows == columns else 2  # a tile off the diagonal stands for its mirror image too
        for start in range(0, len(sides.d), step):
            anchors = slice(start, start + step)
            tile = _Tile(_Sides(*(side[anchors] for side in sides)), sides, rows, columns)
            tile.run()
            loss += twice * tile.loss
            grad_BB[rows, columns] -= twice * tile.pairs_JK * sides.d[rows, columns]
            grad_BB[anchors, rows] += 2 * tile.row_gradient()
            if twice == 2:
                grad_BB[anchors, columns] += 2 * tile.column_gradient()
    return loss, grad_BB


class _Inputs(NamedTuple):
    """What a tile needs of each i, shaped for (i, J, K): r = 1 / d, and both as columns of low-rank factors."""

    r_j: Tensor
    r_k: Tensor
    teacher_r_j: Tensor
    teacher_r_k: Tensor
    left: Tensor
    right: Tensor
    rd_j: Tensor
    rd_k: Tensor


class _Sums(NamedTuple):
    """Sums for each i, where w is Huber's derivative at C_student - C_teacher, and q = -d_jk^2 / 2."""

    over_k: Tensor  # (i, 2, J): of w r_k and of w d_k
    over_k_q: Tensor  # (i, J): of w r_j r_k q
    over_j: Tensor  # (i, 2, K): of w r_j and of w d_j
    over_j_q: Tensor  # (i, K): of w r_j r_k q


class _Tile:
    """The triplets (i, j, k) of some i, j in ``rows``, k in ``columns``: C = (d_j r_k + r_j d_k) / 2 + q r_j r_k.

    ``anchors`` are the sides' rows of those i.
    """

    def __init__(self, anchors: _Sides, sides: _Sides, rows: slice, columns: slice):
        self.d_j, self.r_j, e_j, s_j = (anchor[:, rows] for anchor in anchors)
        self.d_k, self.r_k, e_k, s_k = (anchor[:, columns] for anchor in anchors)
        self.q_JK = sides.d[rows, columns].square().mul_(-0.5)
        self.teacher_q_JK = sides.teacher_d[rows, columns].square().mul_(0.5)  # its cosine is subtracted
        self.inputs = _Inputs(
            self.r_j.unsqueeze(2).contiguous(),
            self.r_k.unsqueeze(1).contiguous(),
            s_j.unsqueeze(2).contiguous(),
            s_k.unsqueeze(1).contiguous(),
            torch.stack((self.d_j, self.r_j, -e_j, -s_j), 2).mul_(0.5),
            torch.stack((self.r_k, self.d_k, s_k, e_k), 1),
            torch.stack((self.r_j, self.d_j), 1),
            torch.stack((self.r_k, self.d_k), 1),
        )
        new, count, (height, width) = sides.d.new_empty, len(anchors.d), self.q_JK.shape
        self.sums = _Sums(new(count, 2, height), new(count, height), new(count, 2, width), new(count, width))
        self.pairs_JK = torch.zeros_like(self.q_JK)  # sum over i of w r_j r_k
        self.loss = sides.d.new_zeros(())

    def run(self) -> None:
        """Visit the i, as many at a time as the work space holds."""
        chunk = max(1, _size_on(self.q_JK.device).chunk // max(1, self.q_JK.numel()))
        work = self.q_JK.new_empty(3, min(chunk, len(self.d_j)), *self.q_JK.shape)
        for pieces in zip(*(tensor.split(chunk) for tensor in self.inputs + self.sums), strict=True):
            inputs, sums = _Inputs(*pieces[: len(self.inputs)]), _Sums(*pieces[len(self.inputs) :])
            self._add(inputs, sums, work[:, : len(inputs.r_j)])

    def _add(self, at: _Inputs, sums: _Sums, work: Tensor) -> None:
        """Add some i. All that is (i, J, K) lives in ``work``: fresh memory would cost most of the time."""
        rr, gap, w = work.unbind()
        torch.bmm(at.left, at.right, out=gap)
        gap.addcmul_(torch.mul(at.r_j, at.r_k, out=rr), self.q_JK)
        gap.addcmul_(torch.mul(at.teacher_r_j, at.teacher_r_k, out=w), self.teacher_q_JK)
        torch.clamp(gap, -1, 1, out=w)
        flat = w.view(-1)
        self.loss += torch.dot(flat, gap.view(-1)) - torch.dot(flat, flat) / 2  # Huber is w gap - w^2 / 2
        torch.bmm(at.rd_k, w.mT, out=sums.over_k)  # twice as fast as w @ rd_k.mT
        torch.bmm(at.rd_j, w, out=sums.over_j)
        rr.mul_(w)
        self.pairs_JK += rr.sum(0)
        rr.mul_(self.q_JK)
        torch.sum(rr, 2, out=sums.over_k_q)
        torch.sum(rr, 1, out=sums.over_j_q)

    def row_gradient(self) -> Tensor:
        """Return (B, J): the sum over k of w dC / d d_ij = w (r_k - r_j C)."""
        w_r, w_d = self.sums.over_k.unbind(1)
        w_cosine = (self.d_j * w_r + self.r_j * w_d) / 2 + self.sums.over_k_q
        return w_r - self.r_j * w_cosine

    def column_gradient(self) -> Tensor:
        """Return (B, K): the sum over j of w dC / d d_ik = w (r_j - r_k C)."""
        w_r, w_d = self.sums.over_j.unbind(1)
        w_cosine = (self.d_k * w_r + self.r_k * w_d) / 2 + self.sums.over_j_q
        return w_r - self.r_k * w_cosine


class RKD(Method):
    """The student keeps the teacher's geometry: relative distances of pairs and angles of triplets."""

    api = 1
    paper = "Park et al., Relational Knowledge Distillation, CVPR 2019"
    year = 2019
    url = "https://arxiv.org/abs/1904.05068"
    equation = (
        "cross-entropy + distance · mean over pairs Huber(d_student / mean d_student - d_teacher / mean d_teacher) "
        "+ angle · mean over triplets Huber(cos angle_student - cos angle_teacher)"
    )
    knowledge = "relation"
    teachers = (1, None)
    batch = "global"

    @dataclass
    class Config(RelatedLayers):
        distance: float = option(25.0, "weight of the distance-wise term; 0 leaves it out", min=0.0)
        angle: float = option(50.0, "weight of the angle-wise term; 0 leaves it out", min=0.0)

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return related_taps("rkd", cfg)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        parts = {"distance": (self.cfg.distance, _distance_term), "angle": (self.cfg.angle, _angle_term)}
        features = related(batch)
        pairs = [_distances_of(student.flatten(1), teacher.flatten(1)) for student, teacher in features]
        dtype = at_least_fp32(features[0][0]).dtype
        terms = {}
        for name, (weight, term) in parts.items():
            if weight:
                losses = [term(*pair) for pair in pairs]
                terms[name] = (weight * sum(losses[1:], losses[0])).to(dtype)
        return terms
