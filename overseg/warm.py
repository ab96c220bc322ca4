"""Compile the kernels once, so that no user waits for it: ``python -m overseg.warm``.

Compiled code is cached beside the modules, in the environment that overseg is installed in.
"""

from __future__ import annotations

import numpy as np


def main() -> None:
    """Run the whole way once on a few voxels, for each width of label."""
    from overseg import correct
    from overseg.kernels.bodies import Neighbours
    from overseg.kernels.crosscut import overlaps
    from overseg.kernels.resample import reslice
    from overseg.kernels.solids import touch_array
    from overseg.kernels.transport import emd_between, mask_points
    from overseg.model.across import across_features
    from overseg.model.touching import touching_features

    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        labels = np.zeros((12, 24, 24), dtype)
        labels[:5, 4:16, 4:16] = 1
        labels[6:, 5:17, 4:16] = 2
        labels[:, 17:, :] = 3
        correct(labels, workers=1, emd="all")
        solids, touches = touch_array(labels)
    # Bounds may have decided already, so that no distance was measured.
    emd_between(mask_points(labels[0] == 1), mask_points(labels[0] == 3))
    sections = reslice(labels, 2, 3, (1.0, 1.0, 1.0), (6.0, 16.5, 10.0), (0.0, 1.0, 0.0), 4.0, 4.0)
    across_features(sections)
    overlaps(sections)
    box = tuple((0, n) for n in labels.shape)
    touching_features(Neighbours.of(solids, touches), touches.a, touches.b, (1.0, 1.0, 1.0), box)


if __name__ == "__main__":
    main()
