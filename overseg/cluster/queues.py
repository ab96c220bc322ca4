"""What SLURM, PBS and LSF say of our jobs, and their reasons in words."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_TIMEOUT = 30.0  # seconds; a busy controller may take long, and then is asked again
_SUBMITS = 120.0  # seconds for a job to be submitted or cancelled, which is not to be done twice
_NOBODY = re.compile(r"unknown job|has finished|not found", re.IGNORECASE)
_OVER = {"C", "F", "X", "DONE", "EXIT"}  # PBS and LSF remember jobs for a while

#: In what a batch system says when it is too busy to answer, which says nothing about a job.
PASSING = re.compile(r"timed out|unable to contact|temporar|try again|zero bytes", re.IGNORECASE)

#: Reasons of SLURM that waiting does not change, and what to do about them.
HOPELESS = {
    "PartitionTimeLimit": "ask for less walltime, or another queue: `sinfo -o '%P %l'` has the limits",
    "PartitionNodeLimit": "ask for less, or another queue: `sinfo` has the limits",
    "BadConstraints": "see the directives: no node has what they ask for",
    "QOSMaxWallDurationPerJobLimit": "ask for less walltime",
    "AssocMaxWallDurationPerJobLimit": "ask for less walltime",
    "InvalidAccount": "see account",
    "InvalidQOS": "see the directives",
}
_HINTS = {
    "JobHeldUser": "scontrol release JOB",
    "JobHeldAdmin": "an administrator holds them",
    "user_hold": "qrls JOB",
}


@dataclass(frozen=True)
class Entry:
    """One job in the queue.

    Attributes
    ----------
    state : str
        In the batch system's words.
    reason : str
        Why it waits; empty where it does not.
    """

    state: str
    reason: str = ""

    @property
    def waits(self) -> bool:
        """Whether it has not begun."""
        return self.state in ("PENDING", "PEND", "Q", "H", "W", "PSUSP")


def try_script(script: str) -> tuple[bool, str] | None:
    """Ask SLURM whether it would take a job, which is not submitted.

    Parameters
    ----------
    script : str
        Of the job.

    Returns
    -------
    tuple of bool and str, or None
        Whether it is refused for good, or only cannot be told now, and SLURM's words; None if it is taken.
    """
    words = ["sbatch", "--test-only"]
    try:
        done = subprocess.run(words, input=script, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return False, f"sbatch did not answer for {_TIMEOUT:.0f} seconds"
    except OSError as error:
        return False, f"sbatch: {error.strerror}"
    if done.returncode == 0:
        return None
    said = " ".join(done.stderr.split())
    return "allocation failure" in said and not PASSING.search(said), said


def impatient(job_cls: Any) -> Any:
    """The same class of jobs, whose commands are ended when they do not come to an end.

    dask-jobqueue waits for them as long as it takes, and some (`bsub`) as long as their system is down.

    Parameters
    ----------
    job_cls : type of dask_jobqueue.core.Job
    """

    class Impatient(job_cls):  # type: ignore[misc]
        @staticmethod
        async def _call(cmd: list[str], *, shell: bool = False, **options: Any) -> str:
            start: Any = asyncio.create_subprocess_shell if shell else asyncio.create_subprocess_exec
            pipe = asyncio.subprocess.PIPE
            process = await start(*cmd, stdout=pipe, stderr=pipe, start_new_session=True, **options)
            try:
                out, err = await asyncio.wait_for(process.communicate(), _SUBMITS)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise RuntimeError(f"timed out, without an answer for {_SUBMITS:.0f} seconds") from None
            if process.returncode:
                words = err.decode(errors="replace")
                raise RuntimeError(f"{shlex.join(cmd)}: exit code {process.returncode}, stderr: {words}")
            said: str = out.decode(errors="replace")
            return said

    return Impatient


async def ask(kind: str, name: str, ids: Collection[str]) -> dict[str, Entry] | str:
    """Our jobs that are in the queue.

    Parameters
    ----------
    kind : {"slurm", "pbs", "lsf"}
    name : str
        All our jobs have this name, and nobody else's.
    ids : collection of str

    Returns
    -------
    dict of str to Entry, or str
        By id; or why the queue cannot be asked, which says nothing about the jobs.
    """
    if not ids:
        return {}
    words = {
        "slurm": ["squeue", "-h", "-n", name, "-o", "%i|%T|%r"],
        "pbs": ["qstat", "-f", *ids],
        "lsf": ["bjobs", "-noheader", "-o", "jobid stat pend_reason delimiter='|'", *ids],
    }[kind]
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        return f"{words[0]}: {error.strerror}"
    try:
        out, err = await asyncio.wait_for(process.communicate(), _TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"{words[0]} did not answer for {_TIMEOUT:.0f} seconds"
    if process.returncode and (kind == "slurm" or not _NOBODY.search(err.decode(errors="replace"))):
        return f"{shlex.join(words[:1])}: {err.decode(errors='replace').strip()}"
    return (parse_pbs if kind == "pbs" else parse_lines)(out.decode(errors="replace"))


def parse_lines(text: str) -> dict[str, Entry]:
    """Jobs by id, from lines ``id|state|reason`` of SLURM and LSF."""
    found = {}
    for line in text.splitlines():
        words = [word.strip() for word in line.split("|", 2)]
        if len(words) == 3 and words[1] not in _OVER:
            found[words[0]] = Entry(words[1], "" if words[2] in ("None", "-") else words[2])
    return found


def parse_pbs(text: str) -> dict[str, Entry]:
    """Jobs by number, from ``qstat -f`` of PBS Pro, OpenPBS and Torque."""
    found = {}
    for part in re.split(r"^Job Id:\s*", re.sub(r"\n\t", "", text), flags=re.MULTILINE)[1:]:
        fields = dict(re.findall(r"^\s+(\w+) = (.*)$", part, flags=re.MULTILINE))
        number = re.match(r"\d+", part)
        if number and fields.get("job_state", "") not in _OVER:
            held = "user_hold" if fields.get("Hold_Types", "n") == "u" else ""
            found[number[0]] = Entry(fields.get("job_state", "?"), fields.get("comment", held))
    return found


def in_words(queued: Mapping[str, Entry]) -> str:
    """What the jobs do or wait for, the many first.

    Examples
    --------
    >>> in_words({"7": Entry("PENDING", "JobHeldUser"), "8": Entry("RUNNING")})
    '1 PENDING (JobHeldUser; scontrol release 7), 1 RUNNING'
    """
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for number, entry in queued.items():
        alike[entry.state, entry.reason].append(number)
    said = []
    for (state, reason), numbers in sorted(alike.items(), key=lambda item: (-len(item[1]), item[0])):
        hint = _HINTS.get(reason, "").replace("JOB", ",".join(numbers[:3]))
        known = "; ".join(word for word in (reason, hint) if word)
        said.append(f"{len(numbers)} {state}" + (f" ({known})" if known else ""))
    return ", ".join(said)
