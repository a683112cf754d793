"""A Slurm cluster on this machine, from Debian's packages `slurmctld`, `slurmd` and `slurm-client`.

It has one node, or plays several.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=5
DependencyParameters=kill_invalid_depend
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
PartitionName=small Nodes=ALL Default=YES MaxTime=60 State=UP
OverTimeLimit=0
KillWait=30
"""

NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} State=UNKNOWN\n"


def reason_without() -> str | None:
    """Why no cluster can be started here; None where one can."""
    missing = [name for name in ("slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install slurmctld slurmd slurm-client"
    return None if os.geteuid() == 0 else "slurmd has to be started as root"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _idle() -> int:
    """How many nodes wait for jobs."""
    told = subprocess.run(["sinfo", "-h", "-N", "-o", "%t"], capture_output=True, text=True, check=False)
    return told.stdout.split().count("idle")


@contextmanager
def cluster(folder: Path, nodes: int = 1) -> Iterator[None]:
    """Inside, `sbatch` of this process reaches a cluster of this machine; what it writes is in a folder.

    Args:
        nodes: of several, which need a Slurm made for it, each has all the cores of the machine.
    """
    host, cpus = platform.node().split(".")[0], os.cpu_count() or 1
    names = [host] if nodes == 1 else [f"played{number}" for number in range(nodes)]
    for name in ("state", *(f"spool-{name}" for name in names)):
        (folder / name).mkdir(parents=True)
    file, ports = folder / "slurm.conf", free_ports(1 + nodes)
    played = [
        NODE.format(name=name, host=host, port=port, cpus=cpus) for name, port in zip(names, ports[1:], strict=True)
    ]
    file.write_text(CONFIGURATION.format(folder=folder, host=host, ports=ports) + "".join(played))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(file)
    commands = [
        ["slurmctld", "-D", "-f", str(file)],
        *(["slurmd", "-D", "-f", str(file), "-N", name] for name in names),
    ]
    daemons = [subprocess.Popen(command, stderr=subprocess.PIPE) for command in commands]
    try:
        limit = time.monotonic() + 60
        while _idle() < nodes:
            assert all(one.poll() is None for one in daemons), [one.communicate()[1] for one in daemons if one.poll()]
            assert time.monotonic() < limit, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.5)
        yield
    finally:
        for one in reversed(daemons):
            one.terminate()
        for one in daemons:
            one.communicate(timeout=30)
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before
