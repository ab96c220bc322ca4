"""Ten kills: whatever dies while a plan is applied or undone, running it again gives every voxel."""

from __future__ import annotations

from pathlib import Path

import pytest
from twins.kills import Patient


@pytest.mark.fault
@pytest.mark.cluster
def test_ten_kills(tmp_path: Path) -> None:
    patient = Patient(tmp_path, seed=7)
    struck = {"group": 0, "driver": 0, "worker": 0}
    for who, kills, least in (("group", 4, 4), ("driver", 4, 4), ("worker", 1, 2)):
        for _ in range(4):
            if struck[who] < least:
                struck[who] += sum(blow.landed for blow in patient.trial(who, kills) if blow.who == who)
    assert sum(struck.values()) >= 10, struck
