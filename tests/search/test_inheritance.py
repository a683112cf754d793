"""Networks that inherit their weights: equal to the supernet on their path, judged by batch statistics, bounded."""

import pytest
import torch

from robustnas.bounds import margins
from robustnas.errors import InputError, RunDirectoryError
from robustnas.nn.batch_statistics import frozen_statistics, scratch_statistics
from robustnas.runtime.artifacts import StageFolder
from robustnas.search import SinglePathTask, inherited, single_path
from robustnas.search.settings import Search
from robustnas.threat import ThreatModel
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.nas_bench_201 import NasBench201
from robustnas_plugins.search_spaces.pc_darts import PcDarts
from support.networks import TinyDataset, batch
from support.subnetwork import subnetwork

SPACES = [Darts(cells=2, channels=2), NasBench201(cells=1, channels=3)]
DATASET = TinyDataset()
THREAT = ThreatModel("linf", 0.02)


@pytest.fixture(scope="module", params=SPACES, ids=["darts", "nas-bench-201"])
def trained(request, tmp_path_factory):
    folder = StageFolder(tmp_path_factory.mktemp("supernet"))
    task = SinglePathTask(DATASET, request.param, Search(epochs=2, batch=9, w_lr=0.1))
    single_path.run(task, folder, torch.device("cpu"))
    return request.param, folder


def drawn(space, count):
    generator = torch.Generator().manual_seed(1)
    return [space.sample(generator) for _ in range(count)]


@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_supernet_on_the_genotypes_path(training, trained):
    space, folder = trained
    network_of, images = inherited(folder, space, DATASET), batch(6)[0]
    for genotype in drawn(space, 4):
        network = network_of(genotype)
        assert not network.training
        network.train(training)
        expected = network.supernet(images, space.path(genotype))
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
        if isinstance(space, Darts):
            copied = subnetwork(network.supernet.supernet, genotype)
            discrete = copied(network.supernet.normalize(images))
            torch.testing.assert_close(network(images), discrete, rtol=1e-4, atol=1e-5)
    state = {f"supernet.{name}" for name in folder.load_tensors("supernet.pt")}
    assert set(network.state_dict()) == state


def test_with_the_statistics_of_a_batch_both_modes_agree(trained):
    space, folder = trained
    network = inherited(folder, space, DATASET)(drawn(space, 1)[0])
    images, _ = batch(6)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    with scratch_statistics(network):
        expected = network(images)
        expected.square().sum().backward()
        with frozen_statistics(network):
            torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(network(images[:2]), expected[:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_bounds_hold_and_what_is_not_on_the_path_does_not_loosen_them(method, trained):
    space, folder = trained
    network = inherited(folder, space, DATASET)(drawn(space, 2)[1])
    images, labels = batch(4)
    with torch.no_grad():
        lower = margins(network, images, labels, THREAT, method=method)
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            moved = images + 0.02 * torch.randn(images.shape, generator=generator).sign()
            logits = network(moved.clamp(0, 1))
            others = logits[torch.arange(3) != labels[:, None]].view(-1, 2)
            assert (lower <= logits.gather(1, labels[:, None]) - others + 1e-4).all()
        network.path = dict(network.path)
        network.path = _Plain(network.path)
        loose = margins(network, images, labels, THREAT, method=method)
    # a path rectifies each state once, the whole supernet each set of states: its lines may be a little further apart
    assert (lower >= loose - 0.01 * loose.abs() - 1e-3).all()
    torch.testing.assert_close(lower, loose, rtol=0.08, atol=1e-3)


class _Plain(dict):
    """Mixing weights that do not tell their columns."""

    def to(self, like):
        return self


def test_damage_is_told(trained, tmp_path):
    space, folder = trained
    with pytest.raises(RunDirectoryError, match="missing"):
        inherited(StageFolder(tmp_path), space, DATASET)
    whole = folder.load_tensors("supernet.pt")
    other = StageFolder(tmp_path / "other")
    other.save_tensors("supernet.pt", dict(list(whole.items())[:-1]))
    with pytest.raises(RunDirectoryError, match="does not fit its space"):
        inherited(other, space, DATASET)
    (other.path / "supernet.pt").write_bytes(b"nothing")
    with pytest.raises(RunDirectoryError):
        inherited(other, space, DATASET)


def test_a_space_without_paths_is_refused(tmp_path):
    with pytest.raises(InputError, match="PcDarts has no `path`"):
        inherited(StageFolder(tmp_path), PcDarts(), DATASET)
