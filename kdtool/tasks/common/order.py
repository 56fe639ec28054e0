"""The order of samples in an epoch: a function of the seed and the epoch."""

from __future__ import annotations

import numpy as np

from kdtool.randomness import epoch_order, key_of


def class_uniform_order(labels: np.ndarray, seed: int, epoch: int, batch_size: int, per_class: int) -> np.ndarray:
    """Return an order whose batches hold ``per_class`` samples of each of a few random classes.

    Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019, section 3.4: each batch has P classes
    of K samples, so that correlations within a class are seen too. Classes are drawn anew for every batch; each
    class's samples come in a random order of their own and start over when they are used up. Samples without a label
    form one further class.

    Args:
        labels: (N,) classes.
        seed, epoch: what the order follows from.
        batch_size: P · K; what does not divide goes to one further class.
        per_class: K.
    """
    draw = np.random.Generator(np.random.Philox(key_of("class-uniform", seed, epoch)))
    queues = {label: draw.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)}
    used = dict.fromkeys(queues, 0)
    order: list[int] = []
    for _ in range(max(1, len(labels) // batch_size)):
        room, classes = batch_size, list(draw.permutation(list(queues)))
        while room:
            label = classes.pop() if classes else draw.choice(list(queues))
            for _ in range(min(per_class, room)):
                queue = queues[label]
                order.append(int(queue[used[label] % len(queue)]))
                used[label] += 1
            room -= min(per_class, room)
    return np.array(order, dtype=np.int64)


def random_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of all samples."""
    return epoch_order(seed, epoch, count)
