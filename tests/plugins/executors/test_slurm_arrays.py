"""How stages become arrays of Slurm jobs: few submissions, and each element waits for its own where that is known."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from robustnas.contracts import Job, Resources
from robustnas.errors import InputError
from robustnas_plugins.executors import slurm
from robustnas_plugins.executors.slurm import Dependency, Slurm, arrays, dependency


def job(kind: str, row: int, needs: Sequence[str] = (), after: Sequence[str] = (), **asked: Any) -> Job:
    title = f"m seed {row} {kind}"
    return Job(f"{kind}{row}", title, kind.partition(" ")[0], tuple(needs), tuple(after), Resources(**asked), print)


def rows(count: int) -> list[Job]:
    """Stages in the order of a plan: row by row."""
    found = []
    for row in range(count):
        found += [
            job("search", row, gpus=4),
            job("train", row, [f"search{row}"]),
            job("clean", row, [f"train{row}"]),
            job("certify", row, [f"train{row}"]),
            job("attack pgd", row, [f"train{row}", f"clean{row}"], [f"certify{row}"]),
        ]
    return found


def test_chains_are_arrays_that_wait_element_by_element():
    found = list(arrays(rows(3), 1000))
    assert [[one.name for one in members] for members, _ in found] == [
        [f"{kind}{row}" for row in range(3)] for kind in ("search", "train", "clean", "certify", "attack pgd")
    ]
    waits = {members[0].kind: depends for members, depends in found}
    assert waits["search"] == []
    assert waits["train"] == [Dependency("aftercorr", "search0")]
    assert waits["clean"] == [Dependency("aftercorr", "train0")]
    assert waits["attack"] == [
        Dependency("aftercorr", "train0"),
        Dependency("aftercorr", "clean0"),
        Dependency("afterany", "certify0"),
    ], "a certificate that fails stops no attack"


def test_what_is_not_aligned_waits_for_all_of_an_array():
    for count, kind in ((2, "afterok"), (3, "afterany")):  # each needs all of the trainings, or two of three
        jobs = rows(count)
        jobs.append(job("attack transfer", 0, ["train0", "train1"]))
        jobs.append(job("attack transfer", 1, ["train1", "train0"]))
        (waits,) = [depends for members, depends in arrays(jobs, 1000) if members[0].title.endswith("transfer")]
        assert waits == [Dependency(kind, "train0")]
    jobs = [job("search", 0), job("train", 0, ["search0"]), job("train", 1, ["search0"])]
    (_, _), (_, shared) = arrays(jobs, 1000)
    assert shared == [Dependency("afterok", "search0")], "two trainings of one genotype"


def test_what_all_wait_for_has_to_succeed_before_any_begins():
    jobs = [job("check", 0), *(job("search", row, ["check0"]) for row in range(3)), job("clean", 0, ["check0"])]
    (_, none), (_, searches), (_, clean) = arrays(jobs, 1000)
    assert (none, searches, clean) == ([], [Dependency("afterok", "check0")], [Dependency("afterok", "check0")])
    jobs = [job("search", 0), job("search", 1), job("train", 0, ["search0"], ["search1"])]
    (_, (waits,)) = list(arrays(jobs, 1000))[1]
    assert waits.kind == "afterany", "it needs one of two"


def test_every_job_is_in_one_array_after_those_that_it_waits_for_and_no_array_is_too_large():
    jobs, seen = rows(25), set()
    for members, depends in arrays(jobs, 10):
        assert len(members) <= 10
        for one in members:
            assert seen.issuperset((*one.needs, *one.after))
        assert len({(one.kind, one.resources) for one in members}) == 1
        if members[0].kind == "train":
            assert [one.kind for one in depends] == ["aftercorr"], "blocks of an array wait for blocks"
        seen |= {one.name for one in members}
    assert seen == {one.name for one in jobs}


def test_dependencies_as_sbatch_takes_them():
    handles = {"a": SimpleNamespace(job_id="12_0"), "b": SimpleNamespace(job_id="13")}
    assert dependency(Dependency("aftercorr", "a"), handles) == "aftercorr:12"
    assert dependency(Dependency("aftercorr", "b"), handles) == "afterok:13", "one job has no elements"
    assert dependency(Dependency("afterany", "b"), handles) == "afterany:13"


def test_what_is_missing_or_refused_is_told_with_what_would_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slurm, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'robustnas\[slurm\]', or --executor local, would do"):
        Slurm().check([Resources()])
    monkeypatch.setattr(slurm, "find_spec", lambda name: True)
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="needs the command sbatch"):
        Slurm().check([Resources()])
    tried: list[list[str]] = []

    def refuses(command: list[str], **how: Any) -> Any:
        tried.append(command)
        return SimpleNamespace(returncode=1, stderr="allocation failure: Invalid partition name specified\n", stdout="")

    monkeypatch.setattr(slurm.shutil, "which", lambda name: "/usr/bin/sbatch")
    monkeypatch.setattr(slurm.subprocess, "run", refuses)
    with pytest.raises(InputError, match=r"the cluster refuses --partition=gpus .*Invalid partition name"):
        Slurm(partition="gpus").check([Resources(gpus=2, cpus=8, memory=1.5, hours=0.5)])
    asked = ["--partition=gpus", "--cpus-per-task=8", "--mem=1536M", "--time=30", "--gpus-per-node=2"]
    assert tried == [["sbatch", "--test-only", *asked, "--wrap=true"]]
