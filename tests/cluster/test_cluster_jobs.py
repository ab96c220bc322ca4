"""What PBS and LSF are asked for, and what is read of the answers of batch systems; none is needed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import types
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import LocalCluster

from overseg.cluster import jobscript, on_jobs, open_executor, queues
from overseg.cluster.queues import Entry
from overseg.errors import MissingPackageError, ResourceError, StorageError
from overseg.settings import ClusterSettings, RunSettings


def settings(**fields: Any) -> ClusterSettings:
    return ClusterSettings(**{"walltime": "01:30:30", "memory": "8GiB", "cores": 4, **fields})


def test_scripts_of_pbs_and_lsf() -> None:
    card = "-l select=1:ncpus=1:ngpus=1"
    made = jobscript.scripts(
        settings(kind="pbs", queue="q", account="lab", gpu_jobs=1, gpu_directives=[card])
    )
    for line in ("-q q", "-A lab", "-l select=1:ncpus=4:mem=8192MB", "-l walltime=01:30:30"):
        assert f"#PBS {line}\n" in made["workers"]
    assert f"#PBS {card}\n" in made["workers with a card"]
    assert made["workers with a card"].count("select=") == 1  # in the place of the usual one
    made = jobscript.scripts(settings(kind="lsf", queue="q", account="lab", directives=["-R rusage[x=1]"]))
    for line in ("-q q", '-P "lab"', "-n 4", "-W 1:31", "-R rusage[x=1]"):
        assert f"#BSUB {line}\n" in made["workers"]


def test_modules_are_found_where_the_driver_finds_them_unless_another_python_is_named() -> None:
    assert "export PYTHONPATH=" in jobscript.scripts(settings(kind="slurm"))["workers"]
    other = jobscript.scripts(settings(kind="slurm", python="/opt/a b/python"))["workers"]
    assert "PYTHONPATH" not in other and "\n'/opt/a b/python' -m distributed" in other


@pytest.mark.parametrize("kind", ["slurm", "pbs", "lsf"])
def test_output_of_jobs_goes_into_the_folder_whatever_its_name(kind: str, tmp_path: Path) -> None:
    queue = {"queue": "q", "account": "lab"} if kind == "lsf" else {}
    of = settings(kind=kind, **queue)
    plain = jobscript.job_options(of, "overseg-1", tmp_path)
    assert plain["log_directory"] == str(tmp_path) and plain["job_extra_directives"] == []
    logs = tmp_path / "it's my plan" / "run"
    made = jobscript.job_options(of, "overseg-1", logs)
    job = jobscript.cluster_class(of).job_cls("tcp://127.0.0.1:1", "job-0", **made).job_script()
    head = [line for line in job.splitlines() if line.startswith("#")]
    assert sum("/dev/null" in line for line in head) == 1 and "my plan" not in "".join(head)
    logs.mkdir(parents=True)
    number = {"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID", "lsf": "LSB_JOBID"}[kind]
    script = made["job_script_prologue"][0] + "; echo well; echo ill >&2"
    subprocess.run(["bash", "-c", script], check=True, env={**os.environ, number: "17.host"})
    assert (logs / "overseg-1-17.host.out").read_text() == "well\nill\n"
    assert (
        "--output=/dev/null" in jobscript.card_options(settings(kind="slurm"), logs)["job_extra_directives"]
    )


def test_workers_leave_a_part_of_the_walltime_to_the_units_that_run() -> None:
    assert jobscript.lifetime(settings(kind="slurm", walltime="24:00:00")) == (86400 - 600, 200)
    assert jobscript.lifetime(settings(kind="slurm", walltime="00:10:00")) == (480, 40)


def test_the_smaller_share_counts_where_units_go_to_any_worker() -> None:
    of = jobscript.memory_of_worker
    assert of(settings(kind="slurm")) == of(settings(kind="slurm", gpu_jobs=1)) == (8192 - 256) << 18
    assert of(settings(kind="slurm", gpu_jobs=1, gpu_memory="1GiB")) == 768 << 20


def test_queues_are_read() -> None:
    text = "7|PENDING|JobHeldUser\n8|RUNNING|None\n9|PENDING|Nodes required for job are DOWN|x\n"
    found = queues.parse_lines(text)
    assert found["7"] == Entry("PENDING", "JobHeldUser") and found["8"] == Entry("RUNNING")
    assert found["7"].waits and not found["8"].waits and len(found) == 3
    assert queues.parse_lines("5|EXIT|-\n6|PEND|Job slot limit reached;\n").keys() == {"6"}


PBS = """Job Id: 12.head
    Job_Name = overseg-1
    job_state = Q
    comment = Not Running: Insufficient amount of resource: ngpus (R: 1 A: 0
\t T: 0)
    Hold_Types = n

Job Id: 13.head
    job_state = H
    Hold_Types = u

Job Id: 14.head
    job_state = C
"""


def test_queues_of_pbs_are_read() -> None:
    found = queues.parse_pbs(PBS)
    assert found.keys() == {"12", "13"}
    assert found["12"].reason.endswith("(R: 1 A: 0 T: 0)") and found["13"].waits
    assert "qrls 13" in queues.in_words(found)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo '3|RUN|-'", {"3": Entry("RUN")}),
        ("echo 'Job <3> is not found' >&2; exit 255", {}),
        ("echo 'LSF is down' >&2; exit 255", "bjobs: LSF is down"),
    ],
)
def test_a_queue_that_does_not_answer_says_nothing_of_jobs(
    script: str, expected: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "bjobs"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert asyncio.run(queues.ask("lsf", "overseg-1", ["3"])) == expected
    monkeypatch.setenv("PATH", "/nowhere")
    assert asyncio.run(queues.ask("lsf", "overseg-1", ["3"])) == "bjobs: No such file or directory"


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dask_jobqueue", "dask_cuda"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=r"overseg\[hpc\]"):
        jobscript.scripts(settings(kind="slurm"))
    with (
        pytest.raises(MissingPackageError, match="dask-cuda"),
        on_jobs.of(ClusterSettings(kind="cuda"), None, None),
    ):
        pass


def test_output_that_has_no_place_is_no_matter_of_the_network(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StorageError) as caught, on_jobs.opened(settings(kind="slurm"), tmp_path / "run/jobs"):
        pass
    assert str(tmp_path / "run/jobs") in str(caught.value) and "interface" not in str(caught.value)


@pytest.mark.cluster
def test_a_machine_without_a_batch_system_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ResourceError) as caught, on_jobs.opened(settings(kind="slurm"), tmp_path / "jobs"):
        pass
    assert "sbatch is not found" in caught.value.what
    assert "login node" in str(caught.value.remedy) and "queue" not in str(caught.value.remedy)


@pytest.mark.cluster
def test_a_batch_system_that_never_answers_is_not_waited_for_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As `bsub` where the system is down."""
    for name, does in (("sbatch", "sleep 50"), ("squeue", ""), ("scancel", "sleep 50")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho still trying >&2\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(queues, "_SUBMITS", 0.5)
    with (
        pytest.raises(ResourceError, match=r"no Dask worker .* 1 seconds; .* timed out"),
        on_jobs.opened(settings(kind="slurm", patience="00:00:01"), tmp_path / "jobs") as ex,
    ):
        dict(ex.run("never", dict, {"1": ()}))
    assert "sbatch refuses: timed out" in caplog.text
    assert not any(str(tmp_path) in str(each.info["cmdline"]) for each in psutil.process_iter(["cmdline"]))


@pytest.mark.cluster
def test_the_dashboard_that_is_named_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that are accepted and never begin."""
    for name, answer in (("sbatch", "Submitted batch job 7"), ("squeue", "7|PENDING|None"), ("scancel", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with on_jobs.opened(settings(kind="slurm"), tmp_path / "jobs") as ex:
        if ex.dashboard is None:
            pytest.skip("bokeh is not installed")
        with urllib.request.urlopen(ex.dashboard, timeout=10) as page:
            assert page.status == 200


@pytest.mark.cluster
def test_a_worker_for_each_card_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """dask-cuda's cluster is Dask's local one with a card for each process; one without cards stands in."""

    def local(**options: Any) -> LocalCluster:
        return LocalCluster(n_workers=2, **options)

    module = types.ModuleType("dask_cuda")
    module.LocalCUDACluster = local  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", module)
    with open_executor(RunSettings(cluster=ClusterSettings(kind="cuda"), memory=1 << 30)) as ex:
        assert (ex.workers, ex.memory, ex.cards) == (2, 1 << 30, True)
        assert dict(ex.run("step", abs_of, {"1": (-1,)}, card=True))["1"]["abs"] == 1


def abs_of(x: int) -> dict[str, Any]:
    return {"abs": abs(x)}
