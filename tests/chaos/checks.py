"""What must be true once the dust has settled, each asked of the rows, the disk and the system, not of the studio."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.services import runners_of
from tests.chaos.world import World

ENDS = ("finished", "failed", "cancelled")


@dataclass(frozen=True)
class Findings:
    """Counts to print, and what is wrong. A good run has no faults."""

    counts: dict[str, Any]
    faults: list[str]


def unfinished(world: World) -> int:
    """Jobs that have not ended. Raises psycopg.OperationalError."""
    (row,) = world.rows("SELECT count(*) AS n FROM generation_job WHERE status IN ('queued', 'running')")
    return int(row["n"])


def look(world: World, submitted: set[str]) -> Findings:
    """Every promise, one after another."""
    faults: list[str] = []
    jobs = world.rows("SELECT * FROM generation_job ORDER BY id")
    takes = world.rows("SELECT * FROM generation_take ORDER BY id")
    changes = world.rows("SELECT job, was, became FROM job_changes ORDER BY id")
    outcomes = Counter(job["status"] for job in jobs)
    reasons = Counter(job["error_code"] for job in jobs if job["status"] == "failed")

    prompts = Counter(job["prompt"] for job in jobs)
    faults += [f"{prompt} was lost" for prompt in submitted - set(prompts)]
    ended = Counter(change["job"] for change in changes if change["became"] in ENDS)
    for job in jobs:
        name = f"job {job['id']}"
        if job["status"] not in ENDS:
            faults.append(f"{name} is {job['status']}")
        if ended[job["id"]] != 1:
            faults.append(f"{name} ended {ended[job['id']]} times")
        if job["status"] == "failed" and not (job["error_code"] and job["error_message"]):
            faults.append(f"{name} failed without a reason")
        made = sorted(take["variation"] for take in takes if take["job_id"] == job["id"])
        if len(set(made)) != len(made):
            faults.append(f"{name} has two takes of one variation")
        if job["status"] == "finished" and made != list(range(job["variations"])):
            faults.append(f"{name} is finished with takes {made} of {job['variations']}")
    faults += [f"job {change['job']} went on after its end" for change in changes if change["was"] in ENDS]
    faults += _disk(world, takes)
    faults += _processes(world)
    faults += _rest(world)
    tries = Counter(change["job"] for change in changes if change["became"] == "running")
    counts = {
        "jobs": len(jobs),
        "outcomes": dict(outcomes),
        "reasons": dict(reasons),
        "begun more than once": sum(1 for count in tries.values() if count > 1),
        "takes": len(takes),
        "restarts": {service.name: service.starts - 1 for service in world.services},
    }
    return Findings(counts, faults)


def _disk(world: World, takes: list[dict[str, Any]]) -> list[str]:
    folder = world.home / "takes"
    faults = []
    for take in takes:
        path = folder / take["file_name"]
        if not path.is_file():
            faults.append(f"take {take['id']} has no file")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != take["sha256"]:
            faults.append(f"take {take['id']} has another file than it says")
    named = {take["file_name"] for take in takes}
    faults += [f"orphan {path.name}" for path in _files(folder) if path.name not in named]
    faults += [f"left in scratch: {path}" for path in _files(world.home / "scratch")]
    return faults


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []


def _processes(world: World) -> list[str]:
    ours = {runner.pid for host in world.hosts for runner in runners_of(host)}
    strays = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        command = process.info["cmdline"] or []
        home = (process.info["environ"] or {}).get("MUSICGEN_HOME")
        if "generation.engine" in command and home == str(world.home) and process.pid not in ours:
            strays.append(f"runner {process.pid} belongs to nobody")
    return strays


def _rest(world: World) -> list[str]:
    faults = []
    hosts = {row["pid"] for row in world.rows("SELECT pid FROM generation_enginehost")}
    if hosts != {host.pid for host in world.hosts}:
        faults.append(f"hosts {sorted(hosts)} are told, and {[host.pid for host in world.hosts]} live")
    if world.rows("SELECT id FROM registry_modelswitch WHERE open_slot"):
        faults.append("a switch is still open")
    active = world.rows("SELECT id FROM registry_modelconfig WHERE is_active")
    if len(active) != 1:
        faults.append(f"{len(active)} models are active")
    return faults
