"""What a made-up machine allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from overseg.cluster import limits
from overseg.cluster.limits import GIB, Limits


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "proc/meminfo", f"MemTotal: 99 kB\nMemAvailable:   {16 * GIB // 1024} kB\n")
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_free_memory_and_affinity_where_nothing_else_binds(root: Path) -> None:
    assert limits.memory(root, {}) == 16 * GIB
    assert limits.cpus(root, {}, affinity=6) == 6


def test_cgroup_v2_of_this_process_and_of_its_parents(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/job/step\n")
    write(root, "sys/fs/cgroup/job/cpu.max", "250000 100000\n")
    write(root, "sys/fs/cgroup/job/step/cpu.max", "max 100000\n")
    write(root, "sys/fs/cgroup/job/memory.max", f"{4 * GIB}\n")
    write(root, "sys/fs/cgroup/job/memory.current", f"{3 * GIB}\n")
    write(root, "sys/fs/cgroup/job/memory.stat", f"anon 5\ninactive_file {2 * GIB}\n")
    write(root, "sys/fs/cgroup/job/step/memory.max", "max\n")
    assert limits.cpus(root, {}, affinity=64) == 2
    assert limits.memory(root, {}) == 3 * GIB


def test_cgroup_v1_in_a_container_that_sees_only_the_mount(root: Path) -> None:
    write(root, "proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n0::/\n")
    write(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n")
    write(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{2 * GIB}\n")
    write(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", f"{1 * GIB}\n")
    assert limits.cpus(root, {}, affinity=64) == 4
    assert limits.memory(root, {}) == 1 * GIB


def test_cgroup_v1_without_limits(root: Path) -> None:
    write(root, "proc/self/cgroup", "4:cpu:/\n3:memory:/\n")
    write(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert limits.cpus(root, {}, affinity=3) == 3
    assert limits.memory(root, {}) == 16 * GIB


@pytest.mark.parametrize(
    ("env", "cpus", "memory"),
    [
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "32"}, 4, 16 * GIB),
        ({"SLURM_CPUS_ON_NODE": "8"}, 8, 16 * GIB),
        ({"SLURM_MEM_PER_NODE": "4096"}, 64, 4 * GIB),
        ({"SLURM_MEM_PER_NODE": "0"}, 64, 16 * GIB),
        ({"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "6"}, 6, 6 * GIB),
        ({"SLURM_CPUS_PER_TASK": "many"}, 64, 16 * GIB),
    ],
)
def test_slurm(root: Path, env: dict[str, str], cpus: int, memory: int) -> None:
    assert limits.cpus(root, env, affinity=64) == cpus
    assert limits.memory(root, env) == memory


def test_share_keeps_what_was_asked_for_and_fits_the_rest() -> None:
    machine = Limits(cpus=16, memory=16 * GIB)
    assert limits.share(3, 5 * GIB, machine) == (3, 5 * GIB)
    assert limits.share(None, 5 * GIB, machine) == (2, 5 * GIB)
    workers, memory = limits.share(None, None, machine)
    assert workers == 13
    assert GIB <= memory <= machine.memory // workers
    assert limits.share(None, None, Limits(cpus=4, memory=GIB // 4))[0] == 1


def test_a_login_node_is_not_eaten() -> None:
    assert limits.share(None, None, Limits(128, 500 * GIB), login_node=True)[0] == 2
    assert limits.share(64, None, Limits(128, 500 * GIB), login_node=True)[0] == 64
    assert limits.on_login_node({}, which=lambda name: f"/usr/bin/{name}")
    assert not limits.on_login_node({"SLURM_JOB_ID": "7"}, which=lambda name: f"/usr/bin/{name}")
    assert not limits.on_login_node({}, which=lambda name: None)


def test_peak_rss_of_this_process(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/status", "Name:\tpython\nVmHWM:\t    2048 kB\n")
    assert limits.peak_rss(tmp_path) == 2 << 20
    assert limits.peak_rss() > 10 << 20
    assert limits.peak_rss(tmp_path / "nothing") > 10 << 20


def test_the_real_machine_has_something_to_give() -> None:
    machine = limits.available()
    assert machine.cpus >= 1
    assert machine.memory > 1 << 20
