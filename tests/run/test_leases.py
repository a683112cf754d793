"""Several processes in one run directory: who is at a stage, who has ended, and what a late riser may still write."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from robustnas.errors import (
    DeviceError,
    DeviceLostError,
    DiskFullError,
    LeaseLostError,
    RobustnasError,
    RunDirectoryError,
    RunError,
)
from robustnas.plan import Seed, Stage
from robustnas.run import claims as claiming
from robustnas.run import presence, stage_log
from robustnas.run.agenda import Agenda
from robustnas.run.claims import Claims
from robustnas.run.directory import RunDirectory
from robustnas.run.leases import Leases
from robustnas.run.presence import Peer, Presence
from robustnas.run.progress import Progress
from robustnas.run.watch import EXPIRY, Watch
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import Lease, StageFolder, lock, write_json

STAGES = [Stage("clean", key * 12, key, Seed(0)) for key in "abc"]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Leases, Leases]]:
    """Two that are at work in one directory."""
    first, second = (Leases.of(Presence(tmp_path, quiet=True)) for _ in range(2))
    with first.begun(), second.begun():
        yield first, second


def elsewhere(leases: Leases, beat: int, recipe: str = "") -> str:
    """What a process of another machine tells of itself; returns its name."""
    peer = {"machine": "node7", "kernel": "k", "process": 7, "recipe": recipe, "beat": beat}
    write_json(leases.presence.folder / "other.json", peer)
    return "other"


def looks(leases: Leases, now: list[float], name: str, seconds: float) -> list[bool]:
    """What looks at a lease tell, one every two seconds of a clock that is moved on."""
    told = []
    for _ in range(round(seconds / 2)):
        now[0] += 2
        told.append(leases.free(name))
    return told


def test_a_lease_has_one_holder_until_that_gives_it_back(two: tuple[Leases, Leases]):
    first, second = two
    assert first.take("a")
    assert first.take("a"), "it holds it"
    assert not second.take("a")
    assert not second.free("a")
    second.give_back("a")
    assert first.holder("a") == first.presence.peer.name, "it was not the other's to give"
    first.give_back("a")
    assert second.take("a")
    assert second.told("a").startswith(f"process {os.getpid()} on ")


def test_of_many_that_want_many_leases_each_gets_some_and_no_two_the_same(tmp_path: Path):
    every = [Leases.of(Presence(tmp_path, quiet=True)) for _ in range(4)]
    names, got = [f"{number:012}" for number in range(40)], {}

    def grab(leases: Leases) -> None:
        got[leases.presence.peer.name] = [name for name in names if leases.take(name)]

    for leases in every:
        leases.presence.__enter__()
    threads = [threading.Thread(target=grab, args=(leases,)) for leases in every]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for some in got.values() for name in some) == names
    for leases in every:
        leases.presence.__exit__(None, None, None)


def test_what_has_ended_here_is_known_at_once(two: tuple[Leases, Leases]):
    first, second = two
    assert first.take("a")
    assert first.presence._lock is not None
    first.presence._lock.close()  # as the system does when a process is killed
    assert second.free("a")
    assert second.take("a")
    assert presence.read(first.presence.folder, first.presence.peer.name) is None, "its files are gone with it"
    with pytest.raises(LeaseLostError, match=f"{second.presence.peer.name} has taken over"):
        first.lease("a").check()


def test_elsewhere_a_count_that_stands_still_has_ended_whatever_any_clock_says(two: tuple[Leases, Leases]):
    leases, now = two[0], [0.0]
    leases.watch = Watch(leases.presence.folder, clock=lambda: now[0])
    name = elsewhere(leases, 5)
    assert Lease(leases.presence.folder / "a.lease", name).take()
    for beat in (5, 6, 7):
        elsewhere(leases, beat)
        assert not any(looks(leases, now, "a", 0.8 * EXPIRY)), "0.8 of the time since it moved"
    peer = presence.read(leases.presence.folder, name)
    assert peer is not None
    assert leases.watch.living(peer)
    assert any(looks(leases, now, "a", 0.3 * EXPIRY))


def test_a_hold_up_of_the_watcher_is_no_silence_of_the_watched(two: tuple[Leases, Leases]):
    leases, now = two[0], [0.0]
    leases.watch = Watch(leases.presence.folder, clock=lambda: now[0])
    assert Lease(leases.presence.folder / "a.lease", elsewhere(leases, 5)).take()
    assert not leases.take("a")
    now[0] += 40 * EXPIRY  # the file system hung for both, and this process wakes up first
    assert not leases.take("a")
    elsewhere(leases, 6)
    assert not any(looks(leases, now, "a", 0.8 * EXPIRY))


def test_one_that_went_or_never_wrote_its_name_does_not_hold_for_ever(two: tuple[Leases, Leases]):
    leases, now = two[0], [0.0]
    leases.watch = Watch(leases.presence.folder, clock=lambda: now[0])
    assert Lease(leases.presence.folder / "a.lease", "gone").take()
    assert leases.take("a"), "it told that it went"
    (leases.presence.folder / "b.lease").touch()
    assert not leases.take("b"), "it may be about to write its name"
    assert any(looks(leases, now, "b", EXPIRY))
    assert leases.take("b")


def test_who_has_no_name_yet_is_not_taken_for_one_who_had_none_before(two: tuple[Leases, Leases]):
    leases, now = two[0], [0.0]
    leases.watch = Watch(leases.presence.folder, clock=lambda: now[0])
    file = leases.presence.folder / "a.lease"
    for between in (lambda: leases.free("a"), lambda: leases.take("a") and leases.give_back("a")):
        file.touch()
        assert not any(looks(leases, now, "a", 0.8 * EXPIRY))
        file.unlink()
        between()
        file.touch()
        assert not any(looks(leases, now, "a", 0.8 * EXPIRY))
        file.unlink()
        assert leases.free("a")


@pytest.mark.parametrize("links", [True, False])
def test_nobody_sees_a_lease_without_its_holders_name_where_there_are_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
):
    lease, opened, seen = Lease(tmp_path / "a.lease", "one"), os.open, []

    def refuse(*given: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    def look(path: Path, *given: int) -> int:
        handle = opened(path, *given)
        seen.append(lease.file.exists() and not lease.file.read_text())
        return handle

    monkeypatch.setattr(os, "open", look)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    assert lease.take()
    assert any(seen) != links
    monkeypatch.undo()
    assert not Lease(lease.file, "other").take()
    assert lease.found() == "one"
    assert [file.name for file in tmp_path.iterdir()] == ["a.lease"]


@pytest.mark.parametrize("name", ["../precious", "/precious", "a b", "x" * 300])
def test_a_lease_that_somebody_forged_leads_nowhere(two: tuple[Leases, Leases], name: str):
    leases, now = two[0], [0.0]
    precious = leases.presence.folder.parent / "precious.json"
    precious.write_text("{}")
    leases.watch = Watch(leases.presence.folder, clock=lambda: now[0])
    (leases.presence.folder / "a.lease").write_text(name)
    assert leases.holder("a") in ("", "x" * 100)
    leases.take("a")
    looks(leases, now, "a", EXPIRY)
    assert leases.take("a")
    assert precious.exists()


def test_a_lease_is_taken_from_the_dead_alone(tmp_path: Path):
    file = tmp_path / "a.lease"
    dead, quick, slow = (Lease(file, name) for name in ("dead", "quick", "slow"))
    assert dead.take()
    quick.take_away("dead")
    assert quick.take()
    slow.take_away("dead")  # it looked before `quick` had it
    assert quick.found() == "quick"
    assert not slow.take()
    assert [path.name for path in tmp_path.iterdir()] == ["a.lease"]


def test_a_late_riser_writes_nothing_more(tmp_path: Path):
    mine = Lease(tmp_path / "a.lease", "late")
    assert mine.take()
    folder = StageFolder(tmp_path / "clean" / "m-seed0-aaaa", lease=mine)
    folder.write_json("result.json", {"by": "late"})
    mine.take_away("late")
    other = Lease(mine.file, "other")
    assert other.take()
    with pytest.raises(LeaseLostError):
        folder.write_json("result.json", {"by": "late again"})
    assert folder.read_json("result.json") == {"by": "late"}
    evolve(folder, lease=other).write_json("result.json", {"by": "other"})
    assert folder.read_json("result.json") == {"by": "other"}
    assert not list(folder.path.glob(".*")), "nothing is left half written"


@pytest.mark.parametrize("flush", [1, 2])
def test_who_loses_a_lease_while_a_file_is_flushed_gives_it_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush: int
):
    mine = Lease(tmp_path / "a.lease", "late")
    assert mine.take()
    folder = StageFolder(tmp_path / "clean" / "m-seed0-aaaa", lease=mine)
    folder.write_json("result.json", {"by": "late"})
    before = {file.name: file.read_bytes() for file in folder.path.iterdir()}
    flushes = [0]

    def held_up(handle: int) -> None:
        flushes[0] += 1
        if flushes[0] == flush:  # of the file itself, of its digests
            mine.file.write_text("other\n")

    monkeypatch.setattr(os, "fsync", held_up)
    with pytest.raises(LeaseLostError):
        folder.write_json("result.json", {"by": "late again"})
    with pytest.raises(LeaseLostError):
        stage_log.failed(folder, "it diverged")
    assert {file.name: file.read_bytes() for file in folder.path.iterdir()} == before


def test_a_server_that_does_not_answer_ends_no_heartbeat_and_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stat, lstat = os.stat, os.lstat

    def stale(path: object, *given: object, **more: object) -> os.stat_result:
        if str(path).endswith(".cancel"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return stat(path, *given, **more)  # type: ignore[call-overload,no-any-return]

    def broken(path: object, *given: object, **more: object) -> os.stat_result:
        if str(path).endswith(".json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return lstat(path, *given, **more)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(os, "stat", stale)
    with Presence(tmp_path, quiet=True, beat=0.01) as here:
        for _ in range(200):
            if here._count > 3:
                break
            here._ended.wait(0.01)
        assert here._count > 3
        monkeypatch.setattr(os, "lstat", broken)
        assert presence.read(here.folder, here.peer.name) is not None
        monkeypatch.undo()


def test_one_begins_while_the_last_other_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened, times = presence.held_open, [0]

    def late(path: Path) -> object:
        times[0] += 1
        if times[0] == 1:
            path.parent.rmdir()
        file = opened(path)
        if times[0] == 2:
            path.unlink()  # by one that sweeps, and found nobody whose it is
        return file

    monkeypatch.setattr(presence, "held_open", late)
    with Presence(tmp_path, quiet=True) as here:
        assert sorted(file.suffix for file in here.folder.iterdir()) == [".json", ".lock"]
    assert times == [3]
    assert not here.folder.exists()


def test_of_many_that_end_only_some_read_what_all_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reads: list[str] = []
    real = presence.read
    monkeypatch.setattr(presence, "read", lambda folder, name: reads.append(name) or real(folder, name))
    folder = tmp_path / presence.FOLDER
    for others in (3, 200):
        with Presence(tmp_path, quiet=True):
            for number in range(others):
                write_json(folder / f"x-{number}.json", {"machine": "node7", "kernel": "k", "process": 7})
            reads.clear()
            ended = 5
            for _ in range(ended):
                with Leases.of(Presence(tmp_path, quiet=True)).begun():
                    pass
        looked = len(reads) / (others + 2)
        assert looked == ended if others == 3 else looked < ended  # all of 5 look with a chance of 1 in 10 million


def test_what_kills_left_is_swept_and_what_the_living_have_is_not(two: tuple[Leases, Leases]):
    first, second = two
    folder = first.presence.folder
    living = second.presence.peer.name
    assert second.take("b")
    kept = [f"{living}.cancel", f".{living}.json.x.part", f"c.lease.{living}.gone", f"c.lease.{living}.part"]
    left = ["dead.cancel", "dead.lock", ".dead.json.x.part", ".dead.cancel.x.part", "c.lease.dead.gone"]
    for name in (*kept, *left, "c.lease.dead.part"):
        (folder / name).touch()
    assert Lease(folder / "a.lease", "dead").take()
    own = {f"{one.presence.peer.name}.{kind}" for one in two for kind in ("json", "lock")}
    first.work_on("a recipe")
    assert {file.name for file in folder.iterdir()} == {*kept, *own, "b.lease"}


def test_a_file_system_without_locks_leaves_it_to_the_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def none(file: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(presence, "try_lock", none)
    monkeypatch.setattr(lock, "try_lock", none)
    first, second = (Leases.of(Presence(tmp_path, quiet=True)) for _ in range(2))
    now = [0.0]
    second.watch = Watch(second.presence.folder, clock=lambda: now[0])
    with first.begun(), second.begun():
        assert first.take("a")
        assert not second.take("a")
        first.presence.tell()
        assert not second.free("a")
        assert any(looks(second, now, "a", 1.2 * EXPIRY)), "its count stands still"


def test_what_a_process_is_doing_may_be_unknown_and_it_lives_on(tmp_path: Path):
    def changed() -> None:
        raise RuntimeError("dictionary changed size during iteration")

    with Presence(tmp_path, quiet=True) as here:
        here.doing = changed  # type: ignore[assignment]
        here.tell()
        peer = presence.read(here.folder, here.peer.name)
        assert peer is not None
        assert (peer.beat, peer.doing) == (2, [])


def test_the_directorys_own_files_are_written_by_whoever_holds_its_lease(two: tuple[Leases, Leases]):
    first, second = two
    directory = RunDirectory(first.presence.directory, first.presence.peer.name)
    with first.alone():
        directory.write_json("run.json", {"by": 1})
        with pytest.raises(LeaseLostError):
            evolve(directory, holder=second.presence.peer.name).write_json("run.json", {"by": 2})
    with second.alone(), pytest.raises(LeaseLostError):
        directory.write_json("run.json", {"by": 3})
    assert directory.read_json("run.json") == {"by": 1}


def at_work(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> Claims:
    monkeypatch.setattr(claiming, "LOOK_SECONDS", 0.0)
    progress = Progress(quiet=True)
    directory = RunDirectory(leases.presence.directory, leases.presence.peer.name)
    return Claims(Agenda(STAGES, progress), directory, progress, leases)


def test_stages_of_others_are_waited_for_found_done_failed_or_left(
    two: tuple[Leases, Leases], monkeypatch: pytest.MonkeyPatch
):
    mine, theirs = at_work(two[0], monkeypatch), two[1]
    directory = RunDirectory(mine.directory.path)
    for stage in STAGES:
        assert theirs.take(stage.key)
    assert mine.take() is None
    assert mine.waiting
    directory.folder(STAGES[0]).finish({})
    theirs.give_back(STAGES[0].key)
    stage_log.failed(directory.folder(STAGES[1]), "the loss is not finite")
    theirs.give_back(STAGES[1].key)
    half = directory.folder(STAGES[2]).path
    half.mkdir(parents=True)
    (half / ".result.json.x.part").touch()
    theirs.give_back(STAGES[2].key)
    taken = mine.take()
    assert taken == STAGES[2], "it was left"
    assert not list(half.iterdir()), "what was half written is gone"
    assert [(stage.key, str(why)) for stage, why in mine.agenda.failures] == [
        (STAGES[1].key, "the loss is not finite (in another process)")
    ]
    mine.failed(taken, RunError("it diverged"))
    assert (half / "failed.txt").read_text() == "it diverged\n"
    assert theirs.free(taken.key)
    assert not mine.waiting
    assert mine.take() is None


def test_a_stage_that_was_taken_over_is_waited_for(two: tuple[Leases, Leases], monkeypatch: pytest.MonkeyPatch):
    mine, theirs = at_work(two[0], monkeypatch), two[1]
    taken = mine.take()
    assert taken is not None
    mine.leases.lease(taken.key).take_away(mine.leases.presence.peer.name)  # type: ignore[union-attr]
    assert theirs.take(taken.key)
    mine.progress.started(taken)
    mine.failed(taken, LeaseLostError("lost"))
    assert mine.waiting
    assert theirs.holder(taken.key) == theirs.presence.peer.name
    assert mine.agenda.failures == []


@pytest.mark.parametrize("fault", [DeviceLostError, DiskFullError, DeviceError])
def test_a_stage_that_a_machine_failed_is_left_to_others(
    two: tuple[Leases, Leases], monkeypatch: pytest.MonkeyPatch, fault: type[RobustnasError]
):
    mine, theirs = at_work(two[0], monkeypatch), at_work(two[1], monkeypatch)
    taken = mine.take()
    assert taken is not None
    with pytest.raises(fault):
        mine.failed(taken, fault("this machine has none"))
    assert stage_log.why_failed(mine.directory.folder(taken)) is None
    assert theirs.take() == taken


def test_one_recipe_at_a_time(two: tuple[Leases, Leases]):
    first, second = two
    first.work_on("a recipe")
    second.work_on("a recipe")
    elsewhere(first, 1, recipe="another")
    now = [0.0]
    second.watch = Watch(second.presence.folder, clock=lambda: now.append(now[-1] + EXPIRY / 3) or now[-1])
    second.work_on("a recipe")
    assert not (first.presence.folder / "other.json").exists(), "it showed no sign of life while it was watched"
    with pytest.raises(RunDirectoryError, match="by another recipe"):
        second.work_on("another recipe")


def test_a_request_to_stop_is_heard_and_forgotten(tmp_path: Path):
    with Presence(tmp_path, quiet=True, beat=0.01) as here:
        before = presence.read(here.folder, here.peer.name)
        (here.folder / f"{here.peer.name}.cancel").touch()
        for _ in range(200):
            if interrupt.signalled():
                break
            here._ended.wait(0.01)
        assert interrupt.asked()
        here.tell()
        after = presence.read(here.folder, here.peer.name)
        assert isinstance(before, Peer)
        assert isinstance(after, Peer)
        assert after.beat > before.beat
    assert not interrupt.asked()
    assert not here.folder.exists()
