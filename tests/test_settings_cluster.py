"""The table [cluster]: what it takes, what it refuses, and with which words."""

from __future__ import annotations

import pytest

from overseg.errors import InputError
from overseg.settings import RunSettings, build, read_config

SLURM = {"kind": "slurm", "walltime": "04:00:00", "memory": "8GiB"}


def test_a_table_of_the_config_file_is_a_mapping_in_python(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        '[cluster]\nkind = "slurm"\nwalltime = 04:00:00\nmemory = "8GiB"\nmaximum-jobs = 20\ncores = 4\n'
        'gpu_jobs = 2\nprologue = ["module load cuda"]\n'
    )
    cluster = build(**read_config(file))[1].cluster
    assert (
        cluster
        == build(
            cluster={**SLURM, "maximum_jobs": 20, "cores": 4, "gpu_jobs": 2, "prologue": ["module load cuda"]}
        )[1].cluster
    )
    assert cluster is not None and cluster.walltime_seconds == 14400 and cluster.memory == 8 << 30
    assert cluster.asks_for_card == ("--gres=gpu:1",)
    assert RunSettings(cluster=cluster).address is None
    assert build(cluster={"kind": "address", "address": "tcp://a:1"})[1].address == "tcp://a:1"


@pytest.mark.parametrize(
    ("cluster", "named"),
    [
        ({}, "kind"),
        ({"kind": "sge"}, "kind"),
        ({**SLURM, "partition": "main"}, "partition: there is no such field; there are account, address"),
        ({**SLURM, "queeu": "main"}, "queeu: there is no such field; did you mean queue?"),
        ("slurm", "it is a table"),
        ({**SLURM, "memory": 32}, "too little"),
        ({**SLURM, "gpu_jobs": 1, "gpu_memory": "16"}, "too little"),
        ({**SLURM, "walltime": "4h"}, "HH:MM:SS"),
        ({**SLURM, "walltime": 4}, "HH:MM:SS"),
        ({**SLURM, "walltime": "00:00:00"}, "above zero"),
        ({**SLURM, "memory": "much"}, "not a size"),
        ({**SLURM, "cores": 0}, "cores"),
        ({**SLURM, "queue": "a\nb"}, "queue"),
        ({"kind": "slurm", "memory": "8GiB"}, "needs walltime"),
        ({"kind": "slurm", "walltime": "04:00:00"}, "needs memory"),
        ({**SLURM, "minimum_jobs": 3, "maximum_jobs": 2}, "above maximum_jobs"),
        ({**SLURM, "gpu_queue": "gpu"}, "gpu_jobs = 1"),
        ({**SLURM, "kind": "pbs", "gpu_jobs": 1}, "ngpus"),
        ({**SLURM, "kind": "lsf", "gpu_jobs": 1}, "-gpu"),
        ({**SLURM, "address": "tcp://a:1"}, "scheduler of its own"),
        ({"kind": "address"}, "needs address"),
        ({"kind": "local", "queue": "main"}, "queue"),
        ({"kind": "cuda", "cores": 4}, "cores"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field(cluster, named):
    with pytest.raises(InputError) as caught:
        build(cluster=cluster)
    assert "[cluster]" in str(caught.value) and named in str(caught.value)
    assert "docs/clusters.md" in str(caught.value)


def test_a_field_outside_its_table_is_told_where_it_belongs(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('walltime = "04:00:00"\n[cluster]\nkind = "slurm"\n')
    with pytest.raises(InputError, match=r"below a line \[cluster\]"):
        read_config(file)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"scheduler": "tcp://a:1"}, "leave out one"),
        ({"workers": 3}, "--workers"),
        ({"memory": "1GiB"}, "of a job"),
    ],
)
def test_workers_come_from_one_place(option, named):
    with pytest.raises(InputError, match=named):
        build(cluster=SLURM, **option)
