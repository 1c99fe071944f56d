"""What one machine has, asked of the machine itself; one line of JSON.

Stands alone: the standard library, and psutil where it is installed; nothing of crossfoot is imported. Its
text is sent to each node (`python - REQUEST`), where perhaps nothing else is installed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FORMAT = 1
MARK = "crossfoot-facts "
PIECE_CHARACTERS = 400
LIBRARIES = ("torch", "deepspeed", "transformers", "peft", "accelerate", "safetensors", "numpy")
VARIABLES = (
    *("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "MASTER_ADDR", "MASTER_PORT"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "DS_ACCELERATOR"),
    *("HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "MODELSCOPE_CACHE"),
)
_COMMAND_SECONDS = 10.0


def gather(request: dict[str, Any]) -> dict[str, Any]:
    """All facts. request: `questions` (text to run beside), `seconds` for them, `paths` ([path, use] with use
    read or write), `meeting_point` (a host or address, or None); `folder` and `python`: where it is run.
    """
    began = time.time()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(_ask_torch, request["questions"], request["seconds"])
        gpus = pool.submit(_gpus)
        tools = pool.submit(_tools)
        network = pool.submit(_network, request["meeting_point"])
        facts = {
            "format": FORMAT,
            "began": began,
            "host": socket.gethostname(),
            "slurm_node": os.environ.get("SLURMD_NODENAME"),
            "folder": os.getcwd(),
            "asked": {"folder": request["folder"], "python": request["python"]},
            "python": {"version": platform.python_version(), "path": sys.executable},
            "crossfoot": _crossfoot(),
            "versions": {name: _version(name) for name in LIBRARIES},
            "system": _system(),
            "environ": {name: os.environ[name] for name in VARIABLES if name in os.environ},
            "paths": {path: _path(path, use) for path, use in request["paths"]},
            "gpus": gpus.result(),
            "tools": tools.result(),
            "network": network.result(),
            **asked.result(),
        }
    facts["ended"] = time.time()
    return facts


def _ask_torch(questions: str, seconds: float) -> dict[str, Any]:
    """The answers about torch and deepspeed; `problem` says why there is none."""
    if importlib.util.find_spec("torch") is None:
        missing = {"problem": "not installed"}
        return {"torch": missing, "deepspeed": {} if _version("deepspeed") else missing}
    command = [sys.executable, "-c", questions]
    said, ended = _run(command, seconds)
    answers = {}
    for line in said.splitlines():
        if line.startswith(MARK):
            answers.update(json.loads(line[len(MARK) :]))
    for name in ("torch", "deepspeed"):
        if name not in answers:
            answers[name] = {"problem": f"importing it {ended}"}
            break
    return {"torch": {}, "deepspeed": {}, **answers}


def _run(command: list[str], seconds: float = _COMMAND_SECONDS) -> tuple[str, str]:
    """What a command printed, and how it ended when that was not well ("" when it was)."""
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        ) as process:
            try:
                out, errors = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired as late:
                process.kill()
                said = late.stdout or b""
                return said.decode(errors="replace"), f"did not end within {seconds:.0f} s"
    except OSError as error:
        return "", str(error.strerror or error)
    if process.returncode == 0:
        return out, ""
    if process.returncode < 0:
        return out, f"was ended by signal {-process.returncode}"
    last = (errors.strip() or out.strip() or "no words").splitlines()[-1]
    return out, f"failed: {last}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _crossfoot() -> dict[str, Any] | None:
    """Where the package is, and a sha256 over its source files; None when it cannot be found."""
    found = importlib.util.find_spec("crossfoot")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(next(iter(found.submodule_search_locations)))
    whole = hashlib.sha256()
    for file in sorted(folder.rglob("*.py"), key=lambda file: file.relative_to(folder).as_posix()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        whole.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return {"path": str(folder), "sha256": whole.hexdigest()[:12]}


def _gpus() -> dict[str, Any]:
    """What the driver says, through nvidia-smi; memory in bytes."""
    if shutil.which("nvidia-smi") is None:
        return {"driver": None, "devices": []}
    names = "driver_version,name,memory.total,memory.used"
    said, ended = _run(["nvidia-smi", f"--query-gpu={names}", "--format=csv,noheader,nounits"])
    devices, driver = [], None
    for line in said.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4:
            driver = cells[0]
            total, used = (int(cell) << 20 if cell.isdigit() else None for cell in cells[2:])
            devices.append({"name": cells[1], "memory_bytes": total, "used_bytes": used})
    return {"driver": driver, "devices": devices, **({"problem": f"nvidia-smi {ended}"} if ended else {})}


def _tools() -> dict[str, str | None]:
    """What can compile DeepSpeed's operations: versions, None where a tool is missing."""
    compiler = next(
        (name for name in (os.environ.get("CXX"), "g++", "c++") if name and shutil.which(name)), ""
    )
    home = os.environ.get("CUDA_HOME")
    nvcc = (home and shutil.which("nvcc", path=os.path.join(home, "bin"))) or shutil.which("nvcc")
    said = _run([nvcc, "--version"])[0] if nvcc else ""
    release = said.partition("release ")[2].partition(",")[0]
    ninja = shutil.which("ninja") or shutil.which("ninja", path=os.path.dirname(sys.executable))
    return {
        "compiler": f"{compiler} {_run([compiler, '-dumpfullversion', '-dumpversion'])[0].strip()}".strip()
        if compiler
        else None,
        "ninja": (_run([ninja, "--version"])[0].strip().partition(".git")[0] or "?") if ninja else None,
        "nvcc": (release or "?") if nvcc else None,
    }


def _network(meeting_point: str | None) -> dict[str, Any]:
    """Interfaces in the system's order, what the own host name means, and the way to the meeting point."""
    host = socket.gethostname()
    facts: dict[str, Any] = {"interfaces": _interfaces(), **_resolved(host, "own_")}
    facts["gloo_address"] = next((place for place in facts["own_addresses"] if _can_bind(place)), "127.0.0.1")
    if meeting_point:
        facts.update(meeting_point=meeting_point, **_resolved(meeting_point, "meeting_"))
        facts["way_from"] = _way_to(facts["meeting_addresses"])
    return facts


def _resolved(host: str, prefix: str) -> dict[str, Any]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return {f"{prefix}addresses": [], f"{prefix}problem": str(getattr(error, "strerror", "") or error)}
    return {f"{prefix}addresses": list(dict.fromkeys(str(place[4][0]) for place in found))}


def _can_bind(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _way_to(addresses: list[str]) -> str | None:
    """The own address that packets to there leave from; nothing is sent. None without a way."""
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return None


def _interfaces() -> list[dict[str, Any]] | None:
    """Interfaces with an address, in the order of their numbers; None when psutil is not there to ask."""
    try:
        import psutil
    except ImportError:
        return None
    states = psutil.net_if_stats()
    found = []
    for number, name in sorted(socket.if_nameindex()):
        places = psutil.net_if_addrs().get(name, ())
        addresses = [place.address for place in places if place.family in (socket.AF_INET, socket.AF_INET6)]
        if addresses and number:
            is_bridge = os.path.isdir(f"/sys/class/net/{name}/bridge")
            is_up = name in states and bool(states[name].isup)
            found.append({"name": name, "addresses": addresses, "is_up": is_up, "is_bridge": is_bridge})
    return found


def _system() -> dict[str, Any]:
    """Limits and sizes; None is no limit, or not known."""

    def limit(which: int) -> int | None:
        soft = resource.getrlimit(which)[0]
        return None if soft == resource.RLIM_INFINITY else soft

    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "shm_bytes": shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else None,
        "open_files": limit(resource.RLIMIT_NOFILE),
        "locked_bytes": limit(resource.RLIMIT_MEMLOCK),
        "has_infiniband": bool(
            os.path.isdir("/sys/class/infiniband") and os.listdir("/sys/class/infiniband")
        ),
    }


def _path(path: str, use: str) -> dict[str, Any]:
    """Whether a path can be read, or a folder made there and written; free bytes of the disk it is on."""
    there = os.path.abspath(path)
    is_there = os.path.exists(there)
    while not os.path.exists(there) and there != os.path.dirname(there):
        there = os.path.dirname(there)
    facts = {"use": use, "is_there": is_there, "nearest": there, "free_bytes": shutil.disk_usage(there).free}
    if use == "write":
        return {**facts, "is_usable": os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)}
    wanted = os.R_OK | os.X_OK if os.path.isdir(there) else os.R_OK
    return {**facts, "is_usable": is_there and os.access(there, wanted)}


def _tell(facts: dict[str, Any]) -> None:
    """Print the facts in short lines: srun passes on the lines of several nodes whole, and of a long one only
    pieces, between those of the others. MARK, who speaks, which piece of how many, the piece.
    """
    text = json.dumps(facts)
    pieces = [text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)]
    who = f"{socket.gethostname()}/{os.getpid()}"
    for number, piece in enumerate(pieces, start=1):
        print(f"{MARK}{who} {number}/{len(pieces)} {piece}")
    sys.stdout.flush()


if __name__ == "__main__":
    _tell(gather(json.loads(sys.argv[1])))
