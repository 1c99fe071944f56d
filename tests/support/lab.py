"""Machines on one box: `head`, from which a user starts, and node1, node2, ... with an sshd each.

A machine is a network, host name, process and mount namespace of its own. The bridge that joins them lies in
head's network, so nothing of the host's is touched, and any number of labs can stand side by side. The
folders are the host's, as on a cluster with shared storage. All of it ends with this process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.launching import ROOT, environment

HEAD = "head"
HEAD_ADDRESS = "10.77.0.254"
PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "ssh", "ssh-keygen", "/usr/sbin/sshd", "pdsh")
TIMEOUT_SECONDS = 600.0
_READY_SECONDS = 20.0
_NSENTER = shutil.which("nsenter") or "nsenter"
_INIT = """set -e
hostname "$NAME"
mount --make-rprivate /
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind "$LAB/hosts" /etc/hosts
mount --bind "$LAB/ssh_config" /etc/ssh/ssh_config
ip link set lo up
exec /usr/sbin/sshd -D -e -f "$LAB/sshd_config"
"""
_SSHD = """Port 22
HostKey {folder}/hostkey
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
PidFile none
MaxStartups 100
"""
_SSH = """Host *
  User root
  IdentityFile {folder}/id
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


def why_not(*programs: str) -> str | None:
    """Why there can be no lab here; None when there can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    missing = [program for program in (*PROGRAMS, *programs) if shutil.which(program) is None]
    return f"{', '.join(missing)} not installed (.ci/run names the packages)" if missing else None


@dataclass
class Lab:
    """The machines. folder: of this lab's files. environ: what a user on head has set."""

    folder: Path
    num_nodes: int
    environ: dict[str, str]
    pids: dict[str, int] = field(default_factory=dict)
    _inits: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(f"node{number}" for number in range(1, self.num_nodes + 1))

    def entering(self, machine: str) -> list[str]:
        """The words before a command that is to run on a machine."""
        return [_NSENTER, "-t", str(self.pids[machine]), "-n", "-u", "-p", "-m", f"--wd={ROOT}", "--"]

    def popen(self, machine: str, *command: str | Path, said: Path, **more: str) -> subprocess.Popen[bytes]:
        """Start a command on a machine; what it prints goes into the file `said`."""
        words = [*self.entering(machine), *map(str, command)]
        with said.open("wb") as out:
            return subprocess.Popen(
                words, cwd=ROOT, env=self.environ | more, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def run(
        self, machine: str, *command: str | Path, timeout: float = TIMEOUT_SECONDS, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine, and wait. Standard output and errors come together, in order."""
        words = [*self.entering(machine), *map(str, command)]
        return subprocess.run(
            words,
            cwd=ROOT,
            env=self.environ | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def processes(self, machine: str) -> dict[int, str]:
        """Processes on a machine that a user has started: pid there -> command line."""
        own = ("sshd", "/usr/sbin/", "slurmctld", "slurmstepd", "ps ")
        said = self.run(machine, "ps", "-eo", "pid=,stat=,args=").stdout
        found = {}
        for line in said.splitlines():
            pid, stat, args = line.split(None, 2)
            if not stat.startswith("Z") and not args.removeprefix("[").startswith(own):
                found[int(pid)] = args
        return found

    def find(self, machine: str, what: str) -> int:
        """The process on a machine whose command line holds these words."""
        return next(pid for pid, line in self.processes(machine).items() if what in line)

    def kill(self, machine: str, pid: int, name: str = "KILL") -> None:
        """Send a signal to a process of a machine."""
        done = self.run(machine, "kill", "-s", name, str(pid))
        assert done.returncode == 0, done.stdout

    def cut(self, node: str) -> None:
        """Pull the cable of a node."""
        self._ip(HEAD, "link", "set", f"to-{node}", "down")

    def mend(self, node: str) -> None:
        """Put the cable back."""
        self._ip(HEAD, "link", "set", f"to-{node}", "up")

    def up(self) -> None:
        """Make the machines; done when every sshd answers."""
        folder = self.folder
        for key in ("id", "hostkey"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True
            )
        shutil.copy(folder / "id.pub", folder / "authorized_keys")
        (folder / "sshd_config").write_text(_SSHD.format(folder=folder))
        (folder / "ssh_config").write_text(_SSH.format(folder=folder))
        addresses = {node: f"10.77.0.{number}" for number, node in enumerate(self.nodes, 1)}
        addresses[HEAD] = HEAD_ADDRESS
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        (folder / "home").mkdir()
        self._boot(HEAD)
        self._ip(HEAD, "link", "add", "bridge", "type", "bridge")
        self._ip(HEAD, "addr", "add", f"{HEAD_ADDRESS}/24", "dev", "bridge")
        self._ip(HEAD, "link", "set", "bridge", "up")
        for node in self.nodes:
            self._boot(node)
            there = str(self.pids[node])
            self._ip(HEAD, *f"link add to-{node} type veth peer name eth0 netns {there}".split())
            self._ip(HEAD, "link", "set", f"to-{node}", "master", "bridge", "up")
            self._ip(node, "addr", "add", f"{addresses[node]}/24", "dev", "eth0")
            self._ip(node, "link", "set", "eth0", "up")
        for node in self.nodes:
            self._wait_for_ssh(node)

    def down(self) -> None:
        """End the machines and all that runs on them."""
        for name, init in self._inits.items():
            if name in self.pids:
                os.kill(self.pids[name], signal.SIGKILL)
            else:
                init.kill()
            init.wait()
        self._inits.clear()
        self.pids.clear()

    def _boot(self, name: str) -> None:
        """A machine is the processes below its first one; that one ends with us."""
        with (self.folder / f"{name}.log").open("wb") as log:
            init = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    *(
                        "unshare",
                        "--net",
                        "--uts",
                        "--pid",
                        "--mount",
                        "--fork",
                        "--kill-child",
                        "--mount-proc",
                    ),
                    *("sh", "-c", _INIT),
                ],
                env=self.environ | {"NAME": name, "LAB": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._inits[name] = init
        children = Path(f"/proc/{init.pid}/task/{init.pid}/children")
        self.pids[name] = int(wait_for(lambda: children.read_text().split(), _READY_SECONDS, name)[0])
        ready = Path(f"/proc/{self.pids[name]}/cmdline")
        wait_for(lambda: b"sshd" in ready.read_bytes().split(b"\0")[0], _READY_SECONDS, f"{name} is not up")

    def _wait_for_ssh(self, node: str) -> None:
        wait_for(
            lambda: self.run(HEAD, "ssh", node, "hostname", timeout=10).stdout.strip() == node,
            _READY_SECONDS,
            f"{node} does not answer",
        )

    def _ip(self, machine: str, *words: str) -> None:
        """In the machine's network, but with the host's process numbers: other machines are named by them."""
        inside = [_NSENTER, "-t", str(self.pids[machine]), "-n", "--"]
        subprocess.run([*inside, "ip", *words], check=True, stdin=subprocess.DEVNULL)


def wait_for(look: Callable[[], object], seconds: float, story: str | Callable[[], str]) -> object:
    """Look until there is something to see, and return it. AssertionError with the story after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, (
            f"not within {seconds:.0f} s\n{story if isinstance(story, str) else story()}"
        )
        time.sleep(0.1)
    return seen


@contextmanager
def lab_of(folder: Path, num_nodes: int = 2, environ: Mapping[str, str] | None = None) -> Iterator[Lab]:
    """A lab that is up; it is gone afterwards, whatever happens."""
    folder.mkdir(parents=True, exist_ok=True)
    lab = Lab(folder, num_nodes, {**environment(), "HOME": str(folder / "home"), **(environ or {})})
    try:
        lab.up()
        yield lab
    finally:
        lab.down()
