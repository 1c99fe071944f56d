"""A rank is lost in every way there is: the others notice in time, say which one and where it was, and all of
them end.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psutil
import pytest

from crossfoot.liveness.heartbeats import Heartbeat, read_heartbeats
from crossfoot.liveness.verdicts import read_verdict
from crossfoot.processes import state_of
from support.launching import ROOT, SCRIPTS, environment, free_port
from support.steering import Steering

pytestmark = pytest.mark.distributed

WORKER = ROOT / "tests" / "support" / "watched_rank.py"
TIMEOUT_SECONDS = 5.0
IN_TIME = 10 * TIMEOUT_SECONDS
"""Far more than is needed, and far less than the ten minutes of the process group."""
START_SECONDS = 300.0


@dataclass
class Started:
    """Ranks that were started, by rank; `said` is what each of them printed."""

    run_dir: Path
    folder: Path
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @cached_property
    def steering(self) -> Steering:
        """Of all that are started."""
        return Steering(self.folder / "steering")

    def rank(self, rank: int, world_size: int, *words: str, **how: str) -> None:
        """Start one rank. how: ADDRESS, PORT, NETNS (the network namespace it runs in)."""
        told = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank}
        told |= {"MASTER_ADDR": how.get("ADDRESS", "127.0.0.1"), "MASTER_PORT": how["PORT"]}
        inside = ["ip", "netns", "exec", how["NETNS"]] if "NETNS" in how else []
        more = {"GLOO_SOCKET_IFNAME": "eth0"} if inside else {}
        command = [*inside, sys.executable, str(WORKER), str(self.run_dir), str(TIMEOUT_SECONDS), *words]
        with (self.folder / f"said-{rank}.txt").open("wb") as said:
            self.processes[rank] = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(
                    **{name: str(value) for name, value in told.items()}, **more, **self.steering.variables
                ),
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ranks(self, world_size: int, *words: str) -> None:
        """Start all ranks, and wait until all of them train; not when they have a fault of their own."""
        port = str(free_port())
        for rank in range(world_size):
            self.rank(rank, world_size, *words, PORT=port)
        if not any(word.startswith("fault=") for word in words):
            self.wait_until_training(world_size)

    def said(self, rank: int) -> str:
        return (self.folder / f"said-{rank}.txt").read_text(encoding="utf-8", errors="replace")

    def wait_until_training(self, world_size: int, step: int = 2) -> dict[int, Heartbeat]:
        def trains() -> dict[int, Heartbeat] | None:
            if any(process.poll() is not None for process in self.processes.values()):
                pytest.fail(self.all_said())
            beats = {beat.rank: beat for beat in read_heartbeats(self.run_dir)}
            train = [beat for beat in beats.values() if beat.phase == "training" and beat.step >= step]
            return beats if len(train) == world_size else None

        return wait_for(trains, START_SECONDS, self.all_said)

    def all_said(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("said-*")))

    def end(self, *ranks: int, within: float = IN_TIME) -> dict[int, int]:
        """Wait for ranks to end by themselves; their exit codes."""
        deadline = time.monotonic() + within
        codes = {}
        for rank in ranks:
            try:
                codes[rank] = self.processes[rank].wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pytest.fail(f"rank {rank} lives\n{self.all_said()}")
        return codes


def wait_for(look: Callable[[], object], seconds: float, story: Callable[[], str]) -> object:
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s\n{story()}")
        time.sleep(0.05)
    return seen


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Nothing that was started is left, whatever the test says."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    ranks = Started(run_dir, tmp_path)
    yield ranks
    for process in ranks.processes.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_nobody_is_lost_in_a_run_that_ends(started: Started) -> None:
    hold = started.steering.hold("step", 20)
    started.ranks(2, "steps=60")
    hold.go()
    assert started.end(0, 1) == {0: 0, 1: 0}
    beats = read_heartbeats(started.run_dir)
    assert [(beat.rank, beat.phase, beat.step) for beat in beats] == [(0, "ended", 59), (1, "ended", 59)]
    assert read_verdict(started.run_dir, 1) is None
    assert "CF" not in started.all_said()


def test_a_rank_that_is_killed_is_named_at_once(started: Started) -> None:
    started.ranks(3)
    began = time.monotonic()
    started.processes[1].kill()
    assert started.end(0, 2) == {0: 1, 2: 1}
    assert time.monotonic() - began < IN_TIME
    assert "error[CF773]: rank 1 on " in started.said(0)
    assert " is gone: it was last seen in step " in started.said(0)
    assert f"its process {started.processes[1].pid} is gone" in started.said(0)
    assert "CF" not in started.said(2), "one rank of a host speaks for all"


def test_the_second_rank_speaks_when_the_first_is_killed(started: Started) -> None:
    started.ranks(3)
    started.processes[0].kill()
    assert started.end(1, 2) == {1: 1, 2: 1}
    assert "error[CF773]: rank 0 on " in started.said(1)
    assert "CF" not in started.said(2)


def test_a_rank_that_is_killed_on_another_machine_is_named_by_its_silence(started: Started) -> None:
    port = str(free_port())
    for rank in (0, 1):
        started.rank(rank, 2, f"host=node{rank + 1}", PORT=port)
    started.wait_until_training(2)
    started.processes[1].kill()
    assert started.end(0) == {0: 1}
    said = started.said(0)
    assert re.search(
        r"error\[CF773\]: rank 1 on node2 is lost: silent for \d+ s, last seen in step \d+\n", said
    )
    assert "= note: torch.distributed said to rank 0: " in said


def test_a_connection_that_breaks_between_ranks_that_live_ends_both(started: Started) -> None:
    started.ranks(2, "fault=breaks:1")
    assert started.end(0, 1, within=START_SECONDS + IN_TIME) == {0: 1, 1: 1}
    said = started.said(0)
    assert "error[CF423]: the connection to another rank broke, so rank 1 ends" in said
    assert "= note: torch.distributed says: [gloo/transport] Connection reset" in said
    assert "CF" not in started.said(1)


def test_a_rank_that_is_stopped_is_named_and_ends_when_it_is_woken(started: Started) -> None:
    started.ranks(3)
    started.processes[1].send_signal(signal.SIGSTOP)
    assert started.end(0, 2) == {0: 1, 2: 1}
    assert "error[CF773]: rank 1 on " in started.said(0)
    assert re.search(r"is lost: silent for \d+ s, last seen in step \d+\n", started.said(0))
    assert "is stopped, by a signal" in started.said(0)
    assert started.processes[1].poll() is None
    started.processes[1].send_signal(signal.SIGCONT)
    assert started.end(1) == {1: 1}
    assert "error[CF773]: rank 1 on " in started.said(1), "it says itself what became of it"


def test_a_job_that_is_stopped_as_a_whole_goes_on_when_it_is_woken(started: Started) -> None:
    started.ranks(2)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in started.processes.values():
            process.send_signal(number)
        if number == signal.SIGSTOP:
            time.sleep(2 * TIMEOUT_SECONDS)
    step = max(beat.step for beat in read_heartbeats(started.run_dir))
    time.sleep(1.5 * TIMEOUT_SECONDS)
    started.wait_until_training(2, step + 5)


def test_a_main_thread_that_hangs_is_named_with_what_it_hangs_in(started: Started) -> None:
    started.ranks(3, "fault=hangs:1")
    assert started.end(0, 1, 2, within=START_SECONDS + IN_TIME) == {0: 1, 1: 1, 2: 1}
    said = started.said(0)
    assert "error[CF774]: no rank has done anything for 5 s; least far is rank 1 on " in said
    assert "in step 4, in stand_still (support/watched_rank.py:" in said
    assert "called by main (support/watched_rank.py:" in said, "the others wait in the collective"
    assert "CF" not in started.said(1) + started.said(2)


def test_a_rank_that_fails_tells_the_others(started: Started) -> None:
    started.ranks(2, "fault=fails:1")
    assert started.end(0, 1, within=START_SECONDS + IN_TIME) == {0: 1, 1: 1}
    assert "failed in step 4" in started.said(0)
    assert "it says: out of memory: 80 GiB wanted" in started.said(0)


def test_a_rank_that_ends_too_early_is_named(started: Started) -> None:
    started.ranks(2, "fault=ends:1")
    assert started.end(0, 1, within=START_SECONDS + IN_TIME) == {0: 1, 1: 0}
    assert "ended in step 4, and the others wait for it" in started.said(0)


def test_a_run_that_was_continued_ends_what_is_left_of_the_attempt_before(started: Started) -> None:
    started.ranks(2)
    started.processes[1].send_signal(signal.SIGSTOP)
    started.processes[0].kill()
    started.processes[0].wait()
    first = started.processes.pop(1)
    hold = started.steering.hold("step", 10)
    started.ranks(2, "attempt=2", "steps=20")
    first.send_signal(signal.SIGCONT)
    try:
        assert first.wait(IN_TIME) == 1
    finally:
        first.kill()
    hold.go()
    assert started.end(0, 1) == {0: 0, 1: 0}, "the attempt that runs is not disturbed"


@pytest.mark.parametrize("launcher", ("torchrun", "deepspeed"))
def test_ranks_whose_launcher_is_killed_end(started: Started, launcher: str) -> None:
    command: list[object] = [SCRIPTS / "torchrun", "--nproc-per-node", 2, "--master-port", free_port()]
    if launcher == "deepspeed":
        command = [SCRIPTS / "deepspeed", "--num_gpus", 2, "--master_port", free_port()]
    with (started.folder / "said-0.txt").open("wb") as said:
        started.processes[0] = subprocess.Popen(
            [str(word) for word in (*command, WORKER, started.run_dir, TIMEOUT_SECONDS)],
            cwd=ROOT,
            env=environment(),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    beats = started.wait_until_training(2)
    above = psutil.Process(beats[0].pid).ppid()
    os.kill(above, signal.SIGKILL)
    wait_for(lambda: all(state_of(beat.pid) == "gone" for beat in beats.values()), IN_TIME, started.all_said)
    said = started.said(0)
    assert f"ends: its launcher, {launcher} (process {above}), is gone" in said
    assert said.count("CF776") == 1
    started.end(0)  # the command `deepspeed` takes a launcher that was killed for one that went well


def test_a_folder_that_does_not_answer_ends_the_rank(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "import crossfoot.liveness.rank_monitor as rank_monitor\n"
        "rank_monitor.read_heartbeats = lambda run_dir: time.sleep(3600)\n"
        "with rank_monitor.RankMonitor(sys.argv[1], 1, 0, 2, 2.0, host='node1') as one:\n"
        "    time.sleep(3600)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert f"error[CF775]: the run folder {tmp_path} has not answered rank 0 on node1 for " in done.stdout
    assert done.stderr == ""


@dataclass(frozen=True)
class Link:
    """Two network namespaces joined by a pair of devices."""

    names: tuple[str, str]
    addresses: tuple[str, str]

    def cut(self) -> None:
        _ip("-n", self.names[0], "link", "set", "eth0", "down")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def link() -> Iterator[Link]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip")
    tag = f"cf{os.getpid() % 100_000}"
    found = Link((f"{tag}a", f"{tag}b"), ("10.213.77.1", "10.213.77.2"))
    try:
        for name in found.names:
            try:
                _ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespace can be made: {error.stderr.decode().strip()}")
        _ip("link", "add", "eth0", "netns", found.names[0], "type", "veth",
            "peer", "name", "eth0", "netns", found.names[1])  # fmt: skip
        for name, address in zip(found.names, found.addresses, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
        yield found
    finally:
        for name in found.names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def test_a_network_that_is_cut_ends_both_sides(started: Started, link: Link) -> None:
    where: Mapping[str, str] = {"ADDRESS": link.addresses[0], "PORT": "29555"}
    for rank, name in enumerate(link.names):
        started.rank(rank, 2, f"host=node{rank + 1}", **where, NETNS=name)
    started.wait_until_training(2)
    link.cut()
    assert started.end(0, 1) == {0: 1, 1: 1}
    for rank in (0, 1):
        assert "error[CF774]: no rank has done anything for 5 s" in started.said(rank), "each node says it"
        assert "look at the network between node1, node2" in started.said(rank)
        assert "rank 1 on node2: in step " in started.said(rank)
