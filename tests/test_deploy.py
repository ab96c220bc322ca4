"""What stands in deploy/ is read as those who run it do: settings, scripts, manifests, images, figures."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from typer.main import get_command

import overseg
from overseg.cli import app
from overseg.measure import generate_tissue, simulate_splits
from overseg.settings import RunSettings, Settings, build, read_config

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
CONFIGS = sorted(DEPLOY.rglob("*.toml"))
SCRIPTS = sorted(path for end in ("sh", "sbatch", "pbs") for path in DEPLOY.rglob(f"*.{end}"))
MANIFESTS = sorted(DEPLOY.rglob("*.yaml"))
IMAGES = sorted(path for path in DEPLOY.rglob("Containerfile.*") if path.suffix != ".dockerignore")
PAGES = sorted(DEPLOY.rglob("*.md"))


def name(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


def config_of(manifests: list[dict[str, Any]]) -> str:
    (found,) = [each["data"]["overseg.toml"] for each in manifests if each["kind"] == "ConfigMap"]
    return found


def check_command(words: list[str]) -> None:
    """The command is there, and has these options and enough words."""
    command: Any = get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        assert rest and rest[0] in command.commands, words
        command, rest = command.commands[rest[0]], rest[1:]
    options = {opt: each for each in command.params for opt in getattr(each, "opts", []) if opt[0] == "-"}
    given = 0
    while rest:
        word, rest = rest[0], rest[1:]
        if word.startswith("-"):
            assert word in options, f"{word}: {words}"
            option = options[word]
            rest = rest[0 if option.is_flag else option.nargs :]
        else:
            given += 1
    wanted = [each for each in command.params if each.param_type_name == "argument"]
    assert sum(each.required for each in wanted) <= given <= len(wanted), words


# Settings


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_configs_hold_known_options_and_make_job_scripts(path, tmp_path):
    from overseg.cluster.jobscript import scripts

    known = {*Settings.model_fields, *RunSettings.model_fields}
    assert set(tomllib.loads(path.read_text())) <= known
    cluster = build(**read_config(path))[1].cluster
    assert cluster is not None and cluster.is_batch
    for kind, text in scripts(cluster).items():
        done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        queue = (cluster.gpu_queue if "card" in kind else None) or cluster.queue
        assert re.search(rf"^#\w+ -[pq] {queue}$", text, re.MULTILINE), text
    assert len(scripts(cluster)) == 1 + bool(cluster.gpu_jobs)


def test_commented_lines_of_pbs_are_right_too(tmp_path):
    from overseg.cluster.jobscript import scripts

    text = re.sub(r"^# (gpu_|account)", r"\1", (DEPLOY / "pbs/pbs.toml").read_text(), flags=re.MULTILINE)
    file = tmp_path / "pbs.toml"
    file.write_text(text)
    cluster = build(**read_config(file))[1].cluster
    assert cluster is not None
    card = scripts(cluster)["workers with a card"]
    assert "ngpus=1" in card and card.count("select=") == 1


# Scripts


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_are_scripts(path):
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    text = path.read_text()
    assert text.startswith("#!") and "\nset -euo pipefail\n" in text
    assert path.suffix != ".sh" or os.access(path, os.X_OK)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "-S", "warning", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def fake(folder: Path, command: str, body: str) -> None:
    file = folder / command
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A machine whose overseg, sbatch and qsub only note how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    log = tmp_path / "calls"
    log.touch()
    fake(folder, "overseg", f'printf "%q " overseg "$@" >>{log}; echo >>{log}')
    for command in ("sbatch", "qsub"):
        fake(
            folder,
            command,
            f'printf "%q " {command} "$@" >>{log}; echo >>{log}; echo "$(wc -l <{log})"',
        )
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "PBS_", "SBATCH"))
    }
    return log, {**kept, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PBS_O_WORKDIR": str(tmp_path)}


def calls(log: Path) -> list[list[str]]:
    return [shlex.split(line) for line in log.read_text().splitlines()]


def run(words: list[str | Path], environment: dict[str, str], code: int = 0) -> str:
    done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (
            ["plan", "v w.zarr", "p.overseg", "3", "--max-gap", "3"],
            ["plan", "v w.zarr", "--out", "p.overseg"],
        ),
        (["apply", "p.overseg", "3", "--break-lock"], ["apply", "p.overseg"]),
    ],
)
def test_the_array_on_slurm_is_prepared_done_and_finished(machine, given, command):
    log, environment = machine
    run([DEPLOY / "slurm/array.sh", *given], environment)
    prepare, array, finish = calls(log)
    assert "--array=0-2" in array and "--dependency=afterok:1" in array
    assert "--dependency=afterok:1,afterany:2" in finish
    made = []
    for job, task in ((prepare, None), (array, "2"), (finish, None)):
        script = next(i for i, word in enumerate(job) if word.endswith("array.sbatch"))
        index = {"SLURM_ARRAY_TASK_ID": task} if task else {}
        run(["bash", *job[script:]], environment | index)
        made.append(calls(log)[-1])
    for words in made:
        check_command(words)
        assert words[1 : 1 + len(command)] == command
    options = given[4:] if given[0] == "plan" else given[3:]
    ends = [["--prepare", "3"], ["--task", "2"], ["--finish"]]
    assert [words[1 + len(command) :] for words in made] == [[*options, *end] for end in ends]


@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_arrays_refuse_what_they_do_not_understand(machine, system):
    log, environment = machine
    for words in ([], ["undo", "p"], ["plan", "v", "p"], ["apply", "p", "many"], ["apply", "p", "0"]):
        run([DEPLOY / system / "array.sh", *words], environment, code=2)
    assert calls(log) == []


@pytest.mark.parametrize(
    ("system", "submits", "cancels"), [("slurm", "sbatch", "scancel"), ("pbs", "qsub", "qdel")]
)
@pytest.mark.parametrize("accepted", [0, 1, 2])
def test_arrays_leave_no_job_where_one_is_refused(machine, system, submits, cancels, accepted):
    log, environment = machine
    folder = log.parent / "bin"
    note = f'printf "%q " {submits} "$@" >>{log}; echo >>{log}'
    fake(folder, submits, f'{note}; n=$(wc -l <{log}); [ "$n" -le {accepted} ] || exit 1; echo "$n"')
    fake(folder, cancels, f'printf "%q " {cancels} "$@" >>{log}; echo >>{log}')
    run([DEPLOY / system / "array.sh", "apply", "p.overseg", "3"], environment, code=1)
    made = calls(log)
    assert [words[0] for words in made[: accepted + 1]] == [submits] * (accepted + 1)
    numbers = [str(1 + i) for i in range(accepted)]
    assert made[accepted + 1 :] == ([[cancels, *numbers]] if accepted else [])


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (["plan", "v.zarr", "p.overseg", "3"], ["plan", "v.zarr", "--out", "p.overseg"]),
        (["apply", "p.overseg", "3", "my.toml"], ["apply", "p.overseg", "--config", "my.toml"]),
    ],
)
def test_the_array_on_pbs_is_prepared_done_and_finished(machine, given, command):
    log, environment = machine
    run([DEPLOY / "pbs/array.sh", *given], environment)
    jobs = calls(log)
    assert jobs[1][jobs[1].index("-J") + 1] == "0-2"
    assert "depend=afterok:1,afterany:2" in jobs[2]
    for job, end in zip(jobs, (["--prepare", "3"], ["--task", "1"], ["--finish"]), strict=True):
        variables = dict(pair.split("=", 1) for pair in job[job.index("-v") + 1].split(","))
        run(["bash", job[-1]], environment | variables | {"PBS_ARRAY_INDEX": "1"})
        assert calls(log)[-1] == ["overseg", *command, *end]
        check_command(calls(log)[-1])


def test_drivers_run_the_command_they_are_given(machine):
    log, environment = machine
    words = ["plan", "v.zarr", "--out", "p.overseg", "--config", "c.toml"]
    run(["bash", DEPLOY / "slurm/driver.sbatch", *words], environment)
    given = {"VERB": "plan", "TARGET": "v.zarr", "OUT": "p.overseg", "CONFIG": "c.toml"}
    run(["bash", DEPLOY / "pbs/driver.pbs"], environment | given)
    assert calls(log) == [["overseg", *words]] * 2
    check_command(["overseg", *words])


def test_the_driver_on_slurm_ends_cleanly_and_queues_itself_again(machine, tmp_path):
    log, environment = machine
    fake(
        tmp_path / "bin",
        "overseg",
        f"trap 'echo ended >>{log}; exit 143' TERM; echo ready >>{log}; while :; do sleep 0.05; done",
    )
    fake(tmp_path / "bin", "scontrol", f'echo "$@" >>{log}')
    script = (
        f"bash {DEPLOY}/slurm/driver.sbatch plan v & job=$!; "
        f"until grep -q ready {log}; do sleep 0.05; done; kill -USR1 $job; wait $job"
    )
    run(["bash", "-c", script], environment | {"SLURM_JOB_ID": "7"})
    assert log.read_text().split("\n")[:3] == ["ready", "ended", "requeue 7"]
    log.write_text("")
    run(["bash", "-c", script], environment | {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "20"}, code=1)
    assert log.read_text().split("\n")[:2] == ["ready", "ended"]


@pytest.mark.cluster
@pytest.mark.slurm
def test_the_array_runs_on_a_real_slurm(tmp_path):
    if "SLURM_CONF" not in os.environ:
        if os.environ.get("CI"):
            pytest.fail("SLURM is not running: deploy/slurm/test-cluster.sh starts it")
        pytest.skip("SLURM_CONF is not set: see deploy/slurm/README.md")
    tissue = generate_tissue((16, 64, 64), n_cells=30, seed=3)
    broken, _ = simulate_splits(tissue, rate=0.5, seed=5)
    for place in ("here.zarr", "there.zarr"):
        array = zarr.create_array(str(tmp_path / place), shape=broken.shape, chunks=(8, 32, 32), dtype="u4")
        array[:] = broken
    expected = overseg.correct(str(tmp_path / "here.zarr"), workers=1, voxel_size=(1, 1, 1))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OVERSEG_FINISH_CPUS": "2",
        "OVERSEG_FINISH_MEM": "2G",
        "SBATCH_MEM_PER_NODE": "1G",
        "SBATCH_TIMELIMIT": "5",
    }
    plan = tmp_path / "there.overseg"
    for words in (
        ["plan", tmp_path / "there.zarr", plan, "3", "--voxel-size", "1", "1", "1"],
        ["apply", plan, "3"],
    ):
        said = subprocess.run(
            [str(DEPLOY / "slurm/array.sh"), *map(str, words), "--memory", "1GiB"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert said.returncode == 0, said.stderr
        last = said.stdout.split()[-1]
        wait = ["bash", "-c", f"while squeue -h -j {last} 2>/dev/null | grep -q .; do sleep 0.5; done"]
        try:
            subprocess.run(wait, timeout=100, check=True)
        finally:
            subprocess.run(["scancel", *re.findall(r"\d+", said.stdout)], check=False, capture_output=True)
    logs = "\n".join(f"{path.name}\n{path.read_text()}" for path in sorted(tmp_path.glob("*.log")))
    assert overseg.load(plan).summary()["plan_hash"] == expected.summary()["plan_hash"], logs
    found = zarr.open_array(str(tmp_path / "there.zarr"), mode="r")[:]
    np.testing.assert_array_equal(found, zarr.open_array(str(tmp_path / "here.zarr"), mode="r")[:], logs)
    assert len(list(tmp_path.glob("overseg-task-*.log"))) == 6, logs


# Manifests


def manifests() -> list[dict[str, Any]]:
    return [each for path in MANIFESTS for each in yaml.safe_load_all(path.read_text())]


def pods() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for each in manifests():
        spec = each.get("spec", {})
        if each["kind"] == "DaskCluster":
            found += [("scheduler", spec["scheduler"]["spec"]), ("worker", spec["worker"]["spec"])]
        elif each["kind"] == "DaskWorkerGroup":
            found.append(("card", spec["worker"]["spec"]))
        elif each["kind"] == "Job":
            found.append(("driver", spec["template"]["spec"]))
    return found


def test_manifests_have_what_the_operator_wants():
    kinds = {each["kind"]: each for each in manifests()}
    assert set(kinds) == {"PersistentVolumeClaim", "DaskCluster", "DaskWorkerGroup", "ConfigMap", "Job"}
    cluster, group = kinds["DaskCluster"], kinds["DaskWorkerGroup"]
    assert cluster["apiVersion"] == group["apiVersion"] == "kubernetes.dask.org/v1"
    assert set(cluster["spec"]) == {"scheduler", "worker"} and set(group["spec"]) == {"cluster", "worker"}
    own = cluster["metadata"]["name"]
    service = cluster["spec"]["scheduler"]["service"]
    assert service["selector"] == {"dask.org/cluster-name": own, "dask.org/component": "scheduler"}
    named = {each["name"] for each in cluster["spec"]["scheduler"]["spec"]["containers"][0]["ports"]}
    assert {each["targetPort"] for each in service["ports"]} == named == {"tcp-comm", "http-dashboard"}
    assert group["spec"]["cluster"] == own
    assert cluster["spec"]["worker"]["replicas"] >= 1 and group["spec"]["worker"]["replicas"] >= 1
    run = build(**tomllib.loads(config_of(manifests())))[1]
    assert run.cluster is not None and run.cluster.kind == "address"
    port = next(each["port"] for each in service["ports"] if each["name"] == "tcp-comm")
    assert run.address == f"tcp://{own}-scheduler:{port}"


@pytest.mark.parametrize(("role", "pod"), pods(), ids=[role for role, _ in pods()])
def test_pods_are_bounded_and_may_do_little(role, pod):
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] > 0
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["command"] == ["/opt/overseg/entry.sh"]
    limits = container["resources"]["limits"]
    assert {"cpu", "memory"} <= set(limits) and {"cpu", "memory"} <= set(container["resources"]["requests"])
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"]
    assert own["capabilities"]["drop"] == ["ALL"]
    volumes = {each["name"] for each in pod["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == volumes
    words = container["args"]
    if role in ("worker", "card"):
        assert words[:2] == ["dask", "worker"] and words[words.index("--nthreads") + 1] == "1"
        assert words[words.index("--name") + 1] == "$(DASK_WORKER_NAME)"
        limit = int(words[words.index("--memory-limit") + 1].removesuffix("MiB"))
        assert limit == 1024 * int(limits["memory"].removesuffix("Gi")) - 256
    if role == "card":
        assert limits["nvidia.com/gpu"] == 1 and words[words.index("--resources") + 1] == "GPU=1"
    else:
        assert "nvidia.com/gpu" not in limits
    if role == "driver":
        check_command(words)


def test_manifests_share_one_image_one_claim_and_hold_no_secrets():
    found = manifests()
    assert not [each for each in found if each["kind"] == "Secret"]
    containers = [each for _, pod in pods() for each in pod["containers"]]
    assert len({each["image"] for each in containers}) == 1
    secrets = {ref["secretRef"]["name"] for each in containers for ref in each.get("envFrom", [])}
    assert secrets == {"overseg-s3"}
    text = "".join(path.read_text() for path in MANIFESTS)
    assert not re.search(r"(SECRET|KEY_ID|PASSWORD|TOKEN)\w*\s*[:=,]\s*\S*value", text)
    claims = {
        each["persistentVolumeClaim"]["claimName"]
        for _, pod in pods()
        for each in pod["volumes"]
        if "persistentVolumeClaim" in each
    }
    assert claims == {each["metadata"]["name"] for each in found if each["kind"] == "PersistentVolumeClaim"}


# Images


def instructions(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", IMAGES, ids=name)
def test_images_copy_what_is_there_and_run_as_nobody(path):
    found = instructions(path)
    words = [word for word, _ in found]
    assert words[0] == "FROM" and words.count("ENTRYPOINT") == 1
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))
    last = dict(found)
    base = {"cpu": "python:3.11-slim-bookworm", "cuda": "nvidia/cuda:12"}[path.suffix[1:]]
    assert last["FROM"].startswith(base)
    assert last["USER"].split(":")[0] not in ("root", "0")
    assert yaml.safe_load(last["ENTRYPOINT"]) == ["/opt/overseg/entry.sh", "overseg"]
    assert yaml.safe_load(last["CMD"]) == ["--help"]
    ignored = path.with_name(f"{path.name}.dockerignore").read_text().splitlines()
    assert "*" in ignored
    for word, rest in found:
        if word == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, f"{source} is ignored"
    shell = " ; ".join(rest for word, rest in found if word == "RUN")
    assert "pip install -c constraints.txt" in shell and "python -m overseg.warm" in shell
    for word, rest in found:
        if word == "RUN":
            assert subprocess.run(["bash", "-n"], input=rest, text=True).returncode == 0
    extras = next(rest for word, rest in found if word == "ARG").removeprefix("EXTRAS=").split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= set(project["optional-dependencies"])


def test_entry_hands_each_user_a_copy_of_the_kernels(tmp_path):
    kernels, scratch = tmp_path / "kernels", tmp_path / "tmp"
    kernels.mkdir()
    scratch.mkdir()
    (kernels / "scan.nbi").write_text("compiled")
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    environment |= {"TMPDIR": str(scratch), "OVERSEG_KERNELS": str(kernels)}
    entry = DEPLOY / "container/entry.sh"
    said = [
        run([entry, "sh", "-c", 'cat "$NUMBA_CACHE_DIR/scan.nbi"; echo " $NUMBA_CACHE_DIR"'], environment)
    ] * 2
    assert said[0] == f"compiled {scratch}/overseg-numba-{os.getuid()}\n"
    run(
        [entry, "sh", "-c", 'test "$NUMBA_CACHE_DIR" = /elsewhere'],
        environment | {"NUMBA_CACHE_DIR": "/elsewhere"},
    )
    shutil.rmtree(scratch / f"overseg-numba-{os.getuid()}")
    (scratch / f"overseg-numba-{os.getuid()}").symlink_to(tmp_path)  # what somebody else may have put there
    told = run([entry, "sh", "-c", 'echo "$NUMBA_CACHE_DIR"'], environment).strip()
    assert Path(told).parent == scratch and (Path(told) / "scan.nbi").exists() and not Path(told).is_symlink()


# Pages


def test_the_table_of_sizes_is_what_the_benchmarks_recorded():
    made = runpy.run_path(str(DEPLOY / "resources.py"))
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    assert made["page"](text) == text, "run: python deploy/resources.py"
    rows = made["estimates"](made["recorded"]("growth"))
    assert [row.gib for row in rows] == [1, 16, 128, 1024, 10240]
    assert [row.measured for row in rows] == [True, True, True, False, False]
    assert rows[4].seconds == pytest.approx(80 * rows[2].seconds)


def test_what_is_asked_for_is_what_the_table_says():
    made = runpy.run_path(str(DEPLOY / "resources.py"))
    each = made["memory_per_core"](
        made["worker_peak"](made["recorded"]("growth"), made["recorded"]("touching"))
    )
    for path in CONFIGS:
        cluster = build(**read_config(path))[1].cluster
        assert cluster is not None and cluster.memory == cluster.cores * each << 30
    (worker,) = [pod for role, pod in pods() if role == "worker"]
    assert worker["containers"][0]["resources"]["limits"]["memory"] == f"{each}Gi"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_name_commands_and_files_that_are_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(overseg [^`]+)`", text)
    for line in lines:
        words = shlex.split(line)
        if words[0] == "overseg":
            check_command(words)
        for i, word in enumerate(words):
            if word.endswith("driver.sbatch"):
                check_command(["overseg", *words[i + 1 :]])
            if word.startswith("overseg:") and "run" in words:
                check_command(["overseg", *words[i + 1 :]])
        for word in re.findall(r"deploy/[\w./-]+", line):
            assert (ROOT / word).exists(), word
