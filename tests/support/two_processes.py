"""What `test_processes` runs in two processes: each computes its half, the first writes what both agreed on.

torchrun --nproc-per-node 2 tests/support/two_processes.py OUT [COMMAND...]

Then both do the commands of `robustnas`, each of them one argument, whatever becomes of those before; what is
`preempted: COMMAND` is asked to stop in the fifth step of its search, and `kept: FOLDER COPY` is a copy.  Figures and
exit statuses are in OUT.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from robustnas import search, train
from robustnas.attack import Conditions, evaluate, predict
from robustnas.cli import main
from robustnas.errors import RunError
from robustnas.nn.synchronised import synchronise
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.interrupt import Interrupted
from robustnas.runtime.processes import Processes, joined
from robustnas.runtime.report import silent
from robustnas.search import loop, single_path
from robustnas.search.bilevel import inner_step
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.pgd import PGD
from support.shared_batches import CASES, ORDERS, SEARCHES, SINGLE_PATH, TRAININGS, layer, network, step_of, warp
from support.struck import struck_at

CPU = torch.device("cpu")


def gradients_of_layer(processes: Processes) -> dict[str, torch.Tensor]:
    """Output, gradient and second derivative of a batch norm over both processes' halves of one batch."""
    module, images, direction = layer()
    if processes.size > 1:
        holder = torch.nn.Sequential(module)
        synchronise(holder)
        module = holder[0]
    mine = processes.share(len(images))
    own = images[mine].requires_grad_()
    out = module(own)
    # sin: a loss whose second derivative is not zero; each process adds the terms of its images
    (first,) = torch.autograd.grad(warp(out).sum(), own, create_graph=True)
    (second,) = torch.autograd.grad((first * direction[mine]).sum(), own)
    parts = {"output": out.detach(), "gradient": first.detach(), "second": second}
    whole = {name: torch.cat(processes.gather(part)) for name, part in parts.items()}
    return {**whole, "mean": module.running_mean, "variance": module.running_var}


def evaluated(processes: Processes) -> dict[str, torch.Tensor]:
    """Predictions and an attack with random starts."""
    model, images, labels = network()
    threat = ThreatModel("linf", 0.1)
    attack = PGD(steps=2, step_size=0.05, restarts=2).build(threat)
    record = evaluate(
        model, images, labels, attack, threat, Conditions(batch=5, seed=3, label="pgd", processes=processes)
    )
    return {
        "predictions": predict(model, images, batch=4, processes=processes),
        "perturbed": record.prediction,
        "distance": record.distance,
        "found": record.found,
        "evaluations": torch.tensor(record.evaluations),
    }


def everything(processes: Processes, out: Path) -> dict[str, dict[str, torch.Tensor]]:
    """All figures, by name."""
    found = {"layer": gradients_of_layer(processes), "evaluated": evaluated(processes)}
    cases = list(CASES.items())
    for place, (name, order) in enumerate(ORDERS.items()):
        for metrics_name, metrics in (cases[place % len(cases)], cases[(place + 2) % len(cases)]):
            step = step_of(metrics, processes)
            got = order.gradient(step)
            loss, norm = inner_step(step, 5.0)
            found[f"{name}, {metrics_name}"] = {
                **{f"alpha {i}": gradient for i, gradient in enumerate(got.gradients)},
                "validation loss": got.validation.loss,
                "accuracy": got.validation.accuracy,
                "robustness": torch.zeros(()) if got.validation.robustness is None else got.validation.robustness,
                "loss": loss,
                "norm": norm,
                **{name: value.clone() for name, value in step.supernet.state_dict().items()},
            }
    for name, task in SEARCHES.items():
        folder = StageFolder(out / f"search {name} {processes.size}", writes=processes.first)
        result = search.run(task, folder, CPU, silent, processes)
        found[f"search {name}"] = {table: torch.tensor(rows) for table, rows in result["alpha"].items()}
        found[f"search {name}"]["last loss"] = torch.tensor(processes.broadcast(last(folder))["loss"])
    for name, training in TRAININGS.items():
        folder = StageFolder(out / f"train {name} {processes.size}", writes=processes.first)
        result = train.run(training, folder, CPU, silent, processes)
        found[f"train {name}"] = processes.broadcast(folder.load_tensors("network.pt") if processes.first else None)
        found[f"train {name}"]["accuracy"] = torch.tensor(result["accuracy"])
    folder = StageFolder(out / f"single path {processes.size}", writes=processes.first)
    single_path.run(SINGLE_PATH, folder, CPU, silent, processes)
    found["single path"] = processes.broadcast(folder.load_tensors("supernet.pt") if processes.first else None)
    return found


def last(folder: StageFolder) -> dict[str, float]:
    """The last record of a history; empty where another process has written it."""
    records = folder.history()
    return records[-1] if records else {"loss": 0.0}


def messages(processes: Processes) -> dict[str, torch.Tensor]:
    """What processes do together: sums, flags, agreement on a fault."""
    assert processes.size == 2
    told = [
        processes.any(processes.rank == 1),
        not processes.any(False),
        processes.broadcast(processes.rank) == 0,
        processes.gather(processes.rank) == [0, 1],
    ]

    def fails() -> int:
        if processes.rank == 1:
            raise RunError("the second process says no")
        return 1

    try:
        processes.run_together(fails)
    except RunError as fault:
        told.append(str(fault) == "the second process says no" and fault.shared)

    def breaks() -> None:
        raise MemoryError("no more") if processes.rank == 1 else Interrupted

    try:
        processes.run_together(breaks)
    except Interrupted:
        told.append(True)

    def runs_out() -> None:
        if processes.rank == 1:
            raise MemoryError("no more")

    try:
        processes.run_together(runs_out)
    except RunError as fault:
        told.append(str(fault).startswith("MemoryError: no more (") and fault.shared)
    assert len(told) == 7
    summed = processes.sum([torch.tensor([1.0 + processes.rank]), torch.ones(2, 2, dtype=torch.float64)])
    average = processes.average(torch.tensor(float(processes.rank)), 1 + 2 * processes.rank)
    return {"told": torch.tensor(told), "sum": summed[0], "sum64": summed[1], "average": average}


def commanded(number: int, command: str) -> int:
    """The exit status of a command of `robustnas`; a rendezvous uses its keys once, so each command has its own."""
    if command.startswith("kept: "):
        if os.environ["RANK"] == "0":
            shutil.copytree(*shlex.split(command)[1:])
        return 0
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    given = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    init, step = dist.init_process_group, loop.inner_step
    dist.init_process_group = partial(init, store=dist.PrefixStore(str(number), store), **given)
    if command.startswith("preempted: "):
        # one of them alone: the other has to hear of it
        loop.inner_step = struck_at(5, step, "SIGTERM", os.getpid()) if given["rank"] == 0 else step
    try:
        return main(shlex.split(command.removeprefix("preempted: ")))
    finally:
        dist.init_process_group, loop.inner_step = init, step


if __name__ == "__main__":
    out = Path(sys.argv[1])
    with joined(CPU) as processes:
        found = everything(processes, out)
        found["messages"] = messages(processes)
        one, other = processes.gather(
            {name: {k: v.clone() for k, v in tensors.items()} for name, tensors in found.items()}
        )
        assert all(torch.equal(value, other[name][key]) for name, some in one.items() for key, value in some.items()), (
            "the processes disagree"
        )
        first = processes.first
        if first:
            torch.save(found, out / "two.pt")
    statuses = [commanded(number, command) for number, command in enumerate(sys.argv[2:])]
    if first:
        (out / "statuses.json").write_text(json.dumps({"statuses": statuses, "modules": sorted(sys.modules)}))
