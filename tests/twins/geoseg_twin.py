"""What the authors' released code does, written plainly from a reading of it; whole layers, no tricks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def candidates(labels):
    """Pairs (upper, lower): last and first layer two apart, overlapping, one to one by Jaccard index."""
    extent = {}
    for label in np.unique(labels[labels != 0]).tolist():
        layers = np.flatnonzero((labels == label).any(axis=(1, 2)))
        extent[label] = int(layers[0]), int(layers[-1])
    pairs = []
    for a, (_, last) in extent.items():
        for b, (first, _) in extent.items():
            if a != b and first - last == 2:
                face, start = labels[last] == a, labels[first] == b
                if (face & start).any():
                    pairs.append(((face & start).sum() / (face | start).sum(), a, b))
    chosen, uppers, lowers = [], set(), set()
    for _, a, b in sorted(pairs, key=lambda pair: pair[0], reverse=True):
        if a not in uppers and b not in lowers:
            chosen.append((a, b))
            uppers.add(a)
            lowers.add(b)
    return chosen, extent


def distance(one, two, directions=10_000, seed=0):
    """Sliced Wasserstein-2 distance between the rows of two masks, in the box around both."""
    y, x = np.nonzero(one | two)
    box = np.s_[y.min() : y.max() + 1, x.min() : x.max() + 1]
    one, two = one[box] / one.sum(), two[box] / two.sum()
    ways = np.random.RandomState(seed).randn(one.shape[1], directions)
    ways /= np.sqrt((ways**2).sum(axis=0))
    along = [np.sort((rows[:, :, None] * ways).sum(axis=1), axis=0) for rows in (one, two)]
    return np.sqrt(((along[0] - along[1]) ** 2).mean())


def inputs(labels, a, b, extent, directions=10_000):
    """The twelve numbers that go into the network; None where the code passes the pair over."""
    row = []
    for label in (a, b):
        first, last = extent[label]
        within = []
        for z in range(first, last - 1):
            masks = labels[z] == label, labels[z + 2] == label
            if not all(mask.any() for mask in masks):
                return None  # it divides by zero, and NaN is never merged
            found = distance(*masks, directions)
            if found != 0:
                within.append(found)
        if not within:
            return None
        row += [*np.percentile(within, [25, 50, 75]), min(within), max(within)]
    last, first = extent[a][1], extent[b][0]
    row.append(distance(labels[last] == a, labels[first] == b, directions))

    joined = [labels[z] == a for z in range(extent[a][0], last + 1)]
    joined += [labels[z] == b for z in range(first, extent[b][1] + 1)]
    shared = np.array([(p & q).sum() for p, q in pairwise(joined)], float)
    x = np.arange(len(shared))
    straight = np.corrcoef(x, shared)[0, 1] ** 2 if np.ptp(shared) else 0.0
    left = ((shared - np.polyval(np.polyfit(x, shared, 2), x)) ** 2).sum()
    bent = 1 - left / (((shared - shared.mean()) ** 2).sum() + 1e-4)
    row.append(straight - 1 if straight > bent else (bent - 0.9596848301316223) / 0.12202991544763167)
    return row
