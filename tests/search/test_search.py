"""The search from end to end on the smallest supernet: resume, data, schedule, failures."""

import math

import pytest
import torch
from attrs import evolve, frozen

from robustnas import search
from robustnas.errors import DataError, OptionError, PluginError, RunDirectoryError, RunError
from robustnas.registry import ORDERS
from robustnas.runtime import epochs, interrupt
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.report import silent
from robustnas.search.settings import Search
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.adversarial_alpha import AdversarialAlpha
from robustnas_plugins.metrics.adversarial_training import AdversarialTraining
from robustnas_plugins.metrics.jacobian import Jacobian
from robustnas_plugins.metrics.random_noise import RandomNoise
from support.networks import TinyDataset, TinySpace, TinySupernet
from support.searches import same, timeless

CPU = torch.device("cpu")
SETTINGS = Search(epochs=4, batch=5, warmup_epochs=1, gamma=0.05, alpha_lr=0.05, crop=1, flip=True, cutout=2)


def task(*metrics, seed=7, space=None, dataset=None, order="first", **settings):
    return search.SearchTask(
        dataset or TinyDataset(),
        space or TinySpace(),
        tuple((1.0, metric) for metric in metrics),
        ThreatModel("linf", "8/255"),
        evolve(SETTINGS, order=ORDERS.load(order)(), **settings),
        seed,
    )


def ran(one, folder, report=silent):
    return search.run(one, StageFolder(folder), CPU, report)


METRICS = {
    "darts": (),
    "jacobian": (Jacobian(rows=2),),
    "sdarts-rs": (RandomNoise(),),
    "sdarts-adv": (AdversarialAlpha(steps=2),),
    "adversarial": (AdversarialTraining(steps=2), Jacobian()),
}


def stoppable():
    return task(Jacobian(rows=1), RandomNoise(), order="unrolled", epochs=2)


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    folder = StageFolder(tmp_path_factory.mktemp("whole"))
    return search.run(stoppable(), folder, CPU), folder.load_tensors("checkpoint.pt")


@pytest.mark.parametrize("after", range(1, 7))
def test_a_search_asked_to_stop_saves_its_step_and_goes_on_as_if_nothing_had_happened(
    after, never_stopped, tmp_path, monkeypatch
):
    """3 steps an epoch, 2 epochs: stopped after each step once, the last of an epoch among them."""
    folder, asked = StageFolder(tmp_path), []
    with monkeypatch.context() as patched:
        patched.setattr(interrupt, "asked", lambda: asked.append(0) or len(asked) == after)
        with pytest.raises(interrupt.Interrupted):
            ran(stoppable(), tmp_path)
    assert len(asked) == after
    assert (folder.load_tensors("checkpoint.pt")["middle"] is None) == (after % 3 == 0)
    torch.rand(5)
    assert timeless(ran(stoppable(), tmp_path)) == timeless(never_stopped[0])
    same(folder.load_tensors("checkpoint.pt"), never_stopped[1])


def test_steps_are_reported_now_and_then_and_change_nothing(never_stopped, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(epochs, "REPORT_SECONDS", 0.0)
    result = ran(
        stoppable(), tmp_path, lambda done, total, unit, step=None, **figures: told.append((done, step, figures))
    )
    assert timeless(result) == timeless(never_stopped[0])
    assert [place for *place, _ in told] == [
        [0, None], [0, (1, 3)], [0, (2, 3)], [1, None], [1, (1, 3)], [1, (2, 3)], [2, None]
    ]  # fmt: skip
    both = {"loss", "val_loss", "accuracy", "robustness"}
    assert [set(figures) for _, step, figures in told if step] == [{"loss"}] * 2 + [both] * 2, "after the warm-up"
    record = StageFolder(tmp_path).history()[-1]
    assert told[-1][2]["scores/jacobian"] == record["scores"]["jacobian"]
    assert told[-1][2]["loss"] == record["loss"]
    assert not {"epoch", "alpha", "alpha/normal"} & told[-1][2].keys()


@pytest.mark.parametrize(
    ("metrics", "order"),
    [*zip(METRICS.values(), ("first", "unrolled", "neumann", "first", "unrolled"), strict=True)],
    ids=METRICS,
)
def test_a_search_that_was_stopped_gives_what_one_gives_that_was_not(metrics, order, tmp_path):
    """Killed after the checkpoint of epoch 2: alpha, weights, optimisers and history agree bit for bit."""
    one = task(*metrics, order=order)
    expected = ran(one, tmp_path / "whole")

    def stop(done, total, unit, **figures):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ran(one, tmp_path / "parts", stop)
    whole, parts = (StageFolder(tmp_path / name) for name in ("whole", "parts"))
    assert len(parts.history()) == 2
    torch.rand(17)  # whatever else drew from everyone's generator meanwhile
    assert timeless(ran(one, parts.path)) == timeless(expected)
    assert len(whole.history()) == 4
    assert list(map(timeless, parts.history())) == list(map(timeless, whole.history()))
    same(*(folder.load_tensors("checkpoint.pt") for folder in (whole, parts)))


def test_a_search_that_is_done_stays_so_and_the_seed_decides(tmp_path):
    found = [ran(task(seed=seed), tmp_path / name) for name, seed in (("a", 1), ("a", 1), ("b", 1), ("c", 2))]
    assert found[0] == found[1]
    assert found[0]["alpha"] == found[2]["alpha"] != found[3]["alpha"]


def test_what_a_search_returns_and_records(tmp_path):
    folder = StageFolder(tmp_path)
    told = []
    result = search.run(task(Jacobian()), folder, CPU, lambda *place, **figures: told.append((place, figures)))
    folder.finish(result)  # plain data
    known = {"genotype", "alpha", "operations", "epochs", "parameters", "search_seconds", "peak_memory", "notes"}
    known |= {"collapse", "gap"}
    assert set(result) == known
    table = torch.tensor(result["alpha"]["normal"])
    assert table.shape == (2, 3)
    assert result["genotype"] == {"edges": table.argmax(dim=1).tolist()}
    reference = TinySupernet()
    assert result["parameters"] == sum(p.numel() for p in reference.parameters()) - 6
    history = folder.history()
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    assert [record["w_lr"] for record in history] == pytest.approx(
        [0.001 + 0.024 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    )
    assert history[0]["val_loss"] is history[0]["robustness"] is history[0]["accuracy"] is None  # warm-up
    for record in history[1:]:
        assert record["loss"] > 0
        assert record["val_loss"] > 0
        assert 0 <= record["accuracy"] <= 1
        assert record["robustness"] < 0
        assert 0 < record["alpha_entropy"] <= math.log(3)
    assert result["search_seconds"] == pytest.approx(sum(record["epoch_seconds"] for record in history))
    assert [place for place, _ in told] == [(done, 4, "epoch") for done in range(5)]
    assert told[-1][1]["robustness"] == history[-1]["robustness"]


def test_alpha_does_not_move_while_warming_up(tmp_path):
    """A search that is all warm-up keeps the alpha it began with; one epoch less moves it."""
    tables = [ran(task(warmup_epochs=warmup), tmp_path / str(warmup))["alpha"] for warmup in (3, 4, 5)]
    assert tables[1] == tables[2] != tables[0]


@frozen
class Watch:
    """A metric that notes the images of both levels, each by its mean."""

    inner: list
    outer: list

    def inner_loss(self, supernet, images, labels, threat, context):
        self.inner.append([round(float(image.mean()), 6) for image in images])
        return context.loss(supernet(images), labels)

    def outer_loss(self, supernet, images, labels, threat, context):
        self.outer.append([round(float(image.mean()), 6) for image in images])
        return context.loss(supernet(images), labels)


PLAIN = {"crop": 0, "flip": False, "cutout": 0, "warmup_epochs": 0}


def test_w_sees_one_half_of_the_images_and_alpha_the_other(tmp_path):
    inner, outer = [], []
    ran(task(Watch(inner, outer), **PLAIN, train_share=0.4), tmp_path)
    seen = [set().union(*batches) for batches in (inner, outer)]
    assert len(seen[0]) == 10
    assert 10 < len(seen[1]) <= 16
    assert not seen[0] & seen[1]
    # 2 steps an epoch, 4 epochs: in an epoch every image of w once, and no image of alpha twice
    assert len(inner) == len(outer) == 8
    for batches in (inner, outer):
        for first, second in zip(batches[::2], batches[1::2], strict=True):
            assert len({*first, *second}) == len(first) + len(second) == 10


def test_validation_batches_go_round_when_there_are_fewer(tmp_path):
    outer = []
    ran(task(Watch([], outer), **PLAIN, epochs=1, train_share=0.8, batch=3), tmp_path)
    assert len(outer) == 7  # 21 images of w in 7 batches, 5 of alpha in 2
    assert all(len({*outer[i], *outer[i + 1]}) == 5 for i in (0, 2, 4))
    assert len({frozenset(images) for images in outer}) > 3  # another order each time


def test_the_test_images_are_out_of_reach():
    with pytest.raises(AssertionError):
        TinyDataset().split("test")  # every search of this file would have failed on it


def test_progress_and_augmentation_follow_the_epoch(tmp_path):
    seen = []

    @frozen
    class Spy:
        def inner_loss(self, supernet, images, labels, threat, context):
            seen.append((context.progress, images.sum().item(), torch.rand(1, generator=context.generator).item()))
            return context.loss(supernet(images), labels)

    ran(task(Spy(), train_share=0.2), tmp_path)  # one batch an epoch
    assert [progress for progress, *_ in seen] == [0, 0.25, 0.5, 0.75]
    assert len({total for _, total, _ in seen}) == 4
    assert len({draw for *_, draw in seen}) == 4


@frozen
class Diverging:
    """A metric that is not finite from a given call on, in one of its parts."""

    part: str
    calls: list

    def score(self, network, images, labels, threat):
        self.calls.append(0)
        size = network(images).square().mean(dim=1)
        return -size / 0 if self.part == "score" and len(self.calls) > 4 else -size

    def inner_loss(self, supernet, images, labels, threat, context):
        loss = context.loss(supernet(images), labels)
        return loss * math.nan if self.part == "inner" and len(self.calls) > 4 else loss


@pytest.mark.parametrize(
    ("part", "what", "key"),
    [("score", "robustness R is -inf", "threat.epsilon"), ("inner", "training loss is nan", "search.w_lr")],
)
def test_a_search_that_diverges_says_where_and_keeps_the_last_good_epoch(part, what, key, tmp_path):
    """Three steps an epoch: the fifth call is in the second epoch, its second step."""
    folder = StageFolder(tmp_path)
    with pytest.raises(RunError, match="diverged") as caught:
        search.run(task(Diverging(part, []), warmup_epochs=0), folder, CPU)
    assert f"epoch 2 of 4, step 2 of 3, the {what}" in str(caught.value)
    assert key in str(caught.value)
    assert len(folder.history()) == 1
    kept = folder.load_tensors("checkpoint.pt")
    assert all(value.isfinite().all() for value in kept["supernet"].values())


def test_a_long_epoch_stops_soon_after_it_diverged(tmp_path):
    calls = []
    wanted = task(Diverging("score", calls), warmup_epochs=0, batch=2, dataset=TinyDataset(400))
    with pytest.raises(RunError, match=r"epoch 1 of 4, step 5 of 100"):
        ran(wanted, tmp_path)
    assert len(calls) == 50


def test_a_checkpoint_of_another_search_is_refused(tmp_path):
    folder = StageFolder(tmp_path)
    search.run(task(epochs=1), folder, CPU)
    for other in (task(epochs=2), task(epochs=1, seed=8)):
        with pytest.raises(RunDirectoryError, match="belongs to another search"):
            search.run(other, folder, CPU)

    @frozen
    class WiderSpace(TinySpace):
        def supernet(self, shape, classes):
            return TinySupernet(shape, classes, channels=4)

    with pytest.raises(RunDirectoryError, match=r"does not fit.*\n.*delete"):
        search.run(task(epochs=1, space=WiderSpace()), folder, CPU)
    for part in ("supernet", "records", "alpha_optimizer"):
        state = folder.load_tensors("checkpoint.pt")
        broken = StageFolder(tmp_path / part)
        broken.save_tensors("checkpoint.pt", {name: value for name, value in state.items() if name != part})
        with pytest.raises(RunDirectoryError, match=part):
            search.run(task(epochs=1), broken, CPU)


def test_metrics_that_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(OptionError, match="RandomNoise and AdversarialAlpha both replace the inner loss"):
        ran(task(RandomNoise(), AdversarialAlpha()), tmp_path)
    weighed = evolve(task(), metrics=((2.0, RandomNoise()),))
    with pytest.raises(OptionError, match="RandomNoise has no score to weigh, found weight 2"):
        ran(weighed, tmp_path)


def test_scores_that_cannot_be_used_are_refused(tmp_path):
    @frozen
    class Mean:
        def score(self, network, images, labels, threat):
            return network(images).mean()

    @frozen
    class Detached:
        def score(self, network, images, labels, threat):
            return network(images).detach().mean(dim=1)

    for metric, message in ((Mean(), r"must be \(5,\), found \(\)"), (Detached(), "no gradient flows")):
        with pytest.raises(PluginError, match=message):
            ran(task(metric, warmup_epochs=0), tmp_path)


def test_an_alpha_that_a_checkpoint_would_lose_is_refused(tmp_path):
    class Forgetful(TinySupernet):
        @property
        def alpha(self):
            return {"normal": torch.nn.Parameter(torch.zeros(2, 3))}

    @frozen
    class Space(TinySpace):
        def supernet(self, shape, classes):
            return Forgetful(shape, classes)

    with pytest.raises(PluginError, match=r"alpha normal .* not among its parameters"):
        ran(task(space=Space()), tmp_path)


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"search.train_share 0.9 splits 6 .* into 5 and 1"):
        ran(task(dataset=TinyDataset(6), train_share=0.9), tmp_path)


def test_weights_of_a_list_of_metrics_scale_their_scores(tmp_path):
    """Two halves of one metric are that metric, up to rounding."""
    one = ran(task(Jacobian(), epochs=2), tmp_path / "one")
    halved = evolve(task(epochs=2), metrics=((0.25, Jacobian()), (0.75, Jacobian())))
    two = ran(halved, tmp_path / "two")
    none = ran(task(epochs=2), tmp_path / "none")
    tables = [torch.tensor(result["alpha"]["normal"]) for result in (one, two, none)]
    torch.testing.assert_close(tables[0], tables[1], rtol=1e-4, atol=1e-4)
    assert (tables[0] - tables[2]).abs().max() > 1e-3


def test_an_order_is_given_to_settings_as_it_is_made():
    with pytest.raises(
        ValueError, match=r"found 'neumann'; an order with its options, such as FirstOrder\(\), would do"
    ):
        Search(order="neumann")
