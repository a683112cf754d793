"""A Slurm cluster of one node on this machine, from Debian's packages `slurmctld`, `slurmd` and `slurm-client`."""

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
SlurmctldHost={node}(127.0.0.1)
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
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=small Nodes={node} Default=YES MaxTime=60 State=UP
"""


def reason_without() -> str | None:
    """Why no cluster can be started here; None where one can."""
    missing = [name for name in ("slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install slurmctld slurmd slurm-client"
    return None if os.geteuid() == 0 else "slurmd has to be started as root"


def free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Inside, `sbatch` of this process reaches a cluster of this machine; what it writes is in a folder."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    node, cpus = platform.node().split(".")[0], os.cpu_count() or 1
    file = folder / "slurm.conf"
    file.write_text(CONFIGURATION.format(folder=folder, node=node, ports=free_ports(), cpus=cpus))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(file)
    commands = [[name, "-D", "-f", str(file)] for name in ("slurmctld", "slurmd")]
    daemons = [subprocess.Popen(command, stderr=subprocess.PIPE) for command in commands]
    try:
        limit = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True).stdout:
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
