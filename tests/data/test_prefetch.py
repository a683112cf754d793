"""Batches on the device: the same however they are read, read ahead so far and no further, and no worker left over."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from robustnas.data.augment.augmentation import Augmentation, apply
from robustnas.data.images import InMemory, Streamed
from robustnas.data.prefetch import Prefetcher
from robustnas.data.selection import first
from robustnas.errors import DataError, RunError

# a machine with one core is told that two workers are many
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

COUNT = 60
LABELS = torch.arange(COUNT) % 7
PIXELS = torch.randint(0, 256, (COUNT, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
ORDER = torch.randperm(COUNT, generator=torch.Generator().manual_seed(2)).split(8)


class Source:
    """A sequence of images that workers can be sent."""

    def __init__(self, broken=None, seconds=0.0):
        self.broken = broken
        self.seconds = seconds

    def __len__(self):
        return COUNT

    def __getitem__(self, index, /):
        if index == self.broken:
            raise DataError(f"image {index} is broken; replace it")
        time.sleep(self.seconds)
        return PIXELS[index]


def streamed(workers, **options):
    return Streamed(Source(**options), LABELS, workers)


def same(found, expected):
    assert len(found) == len(expected) > 1
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def two():
    """One feed with two workers for all tests that do no harm to it: their start takes seconds."""
    with Prefetcher(streamed(2), "cpu") as feed:
        yield feed
    assert not multiprocessing.active_children()


def plain():
    """What every way of reading has to give."""
    return [((PIXELS[places].float() / 255), LABELS[places]) for places in ORDER]


@pytest.mark.parametrize(
    "images",
    [InMemory(PIXELS, LABELS), InMemory(PIXELS.float() / 255, LABELS), streamed(0), first(streamed(0), COUNT)],
    ids=["bytes", "floats", "streamed", "first"],
)
def test_batches_are_the_images_and_labels_at_the_indices(images):
    found = list(Prefetcher(images, "cpu").batches(ORDER))
    assert same(found, plain())
    assert all(one.dtype == torch.float32 for one, _ in found)
    assert not multiprocessing.active_children()


def test_workers_change_nothing_and_stay_from_epoch_to_epoch(two):
    state, handler = torch.get_rng_state(), signal.getsignal(signal.SIGCHLD)
    assert same(list(two.batches(ORDER)), plain())
    running = {process.pid for process in multiprocessing.active_children()}
    assert len(running) == 2
    assert same(list(two.batches(iter(ORDER))), plain())
    assert {process.pid for process in multiprocessing.active_children()} == running
    assert torch.equal(torch.get_rng_state(), state)
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_a_seed_gives_the_same_augmented_batches_with_and_without_workers(two):
    def epoch(feed, seed):
        generator, augmentation = torch.Generator().manual_seed(seed), Augmentation(crop=2, flip=True, cutout=2)
        for images, labels in feed.batches(ORDER):
            yield apply(images, augmentation.plan(len(labels), (6, 5), generator)), labels

    here = Prefetcher(streamed(0), "cpu")
    assert same(list(epoch(two, 3)), list(epoch(here, 3)))
    assert not same(list(epoch(two, 4)), list(epoch(here, 3)))


def test_batches_are_read_ahead_so_far_and_no_further(two):
    taken = []

    def noted():
        for places in ORDER:
            taken.append(places)
            yield places

    for number, _ in enumerate(two.batches(noted()), 1):
        assert len(taken) == min(number + 2, len(ORDER))
    taken.clear()
    for number, _ in enumerate(Prefetcher(streamed(0), "cpu").batches(noted()), 1):
        assert len(taken) == number


def test_workers_outlive_the_signals_that_ask_a_run_to_stop(two):
    found = []
    for batch in two.batches(ORDER):
        found.append(batch)
        if len(found) == 2:
            running = multiprocessing.active_children()
            assert running
            for process in running:
                os.kill(process.pid, signal.SIGINT)
                os.kill(process.pid, signal.SIGTERM)
    assert same(found, plain())


def test_streams_run_side_by_side():
    feed = Prefetcher(streamed(0), "cpu")
    first, second = feed.batches(ORDER), feed.batches(ORDER[::-1])
    pairs = [(next(first), next(second)) for _ in range(2)]
    assert same([*(one for one, _ in pairs), *first], plain())
    assert same([one for _, one in pairs], plain()[::-1][:2])


@pytest.mark.slow
def test_streams_of_workers_run_side_by_side_and_one_that_is_given_up_leaves_none(two):
    list(two.batches(ORDER[:1]))
    before = {process.pid for process in multiprocessing.active_children()}
    first, second = two.batches(ORDER), two.batches(ORDER[::-1])
    pairs = [(next(first), next(second)) for _ in range(2)]
    assert len(multiprocessing.active_children()) == 4
    second.close()
    assert {process.pid for process in multiprocessing.active_children()} == before
    assert same([*(one for one, _ in pairs), *first], plain())
    assert same([one for _, one in pairs], plain()[::-1][:2])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_told_alike_and_no_worker_stays(workers):
    before = len(multiprocessing.active_children())
    feed = Prefetcher(streamed(workers, broken=int(ORDER[2][0])), "cpu")
    stream = feed.batches(ORDER)
    assert same([next(stream), next(stream)], plain()[:2])
    with pytest.raises(DataError) as caught:
        next(stream)
    assert str(caught.value) == f"image {int(ORDER[2][0])} is broken; replace it"
    assert len(multiprocessing.active_children()) == before


def test_images_that_cannot_be_sent_to_workers_are_told():
    class Local(Source):
        pass

    before = len(multiprocessing.active_children())
    feed = Prefetcher(Streamed(Local(), LABELS, 1), "cpu")
    with pytest.raises(DataError, match=r"Streamed cannot be sent .* workers: 0 "):
        next(feed.batches(ORDER))
    assert len(multiprocessing.active_children()) == before
    assert same(list(Prefetcher(Streamed(Local(), LABELS, 1), "cpu", workers=0).batches(ORDER)), plain())


def test_waiting_is_counted_from_the_last_reset_and_does_not_count_the_consumer():
    feed = Prefetcher(streamed(0, seconds=0.002), "cpu")
    assert feed.waited == 0
    for _ in feed.batches(ORDER[:2]):
        time.sleep(0.1)
    assert 16 * 0.002 <= feed.waited < 0.2
    once = feed.waited
    list(feed.batches(ORDER[:2]))
    assert feed.waited >= once + 16 * 0.002
    feed.reset()
    assert feed.waited == 0


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_when_its_batch_is_asked_for():
    before = set(multiprocessing.active_children())
    feed = Prefetcher(streamed(1, seconds=0.005), "cpu")
    stream = feed.batches(ORDER)
    next(stream)
    (process,) = set(multiprocessing.active_children()) - before
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(RunError, match=r"reads images ended .* fewer workers"):
        list(stream)
    assert set(multiprocessing.active_children()) == before


@pytest.mark.slow
def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path):
    program = (
        "import multiprocessing, os, signal, torch\n"
        "import test_prefetch\n"
        "from robustnas.data.prefetch import Prefetcher\n"
        "if __name__ == '__main__':\n"
        "    stream = Prefetcher(test_prefetch.streamed(1), 'cpu').batches(test_prefetch.ORDER)\n"
        "    next(stream)\n"
        "    print(*(process.pid for process in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    file = tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(file)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    workers = [int(number) for number in done.stdout.split()]
    assert len(workers) == 1
    # its end of the pipe closes when it is gone, so it is by now; but a process may lie there unburied
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in workers)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")
