"""What holds for both spaces of DARTS cells: their options, alpha, any image and any depth."""

import pytest
import torch
import torch.nn.functional as F
from attrs import fields

from robustnas.contracts import SearchSpace
from robustnas.plan import settings
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.ops import SEARCH
from robustnas_plugins.search_spaces.pc_darts import PcDarts

BOTH = pytest.mark.parametrize("space", [Darts, PcDarts])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@BOTH
def test_it_keeps_the_contract_and_documents_its_options(space):
    assert isinstance(space(), SearchSpace)
    options = {option.name: option.metadata for option in fields(space)}
    assert all(metadata["help"] for metadata in options.values())
    stages = {name: metadata["stage"] for name, metadata in options.items()}
    assert {name for name, stage in stages.items() if stage == "train"} == {"network_cells", "network_channels", "form"}
    darts = {option.name: option.metadata for option in fields(Darts)}
    assert {name: metadata for name, metadata in options.items() if name != "partial"} == darts


@BOTH
def test_it_tells_the_operations_of_its_cells(space):
    assert space().candidates == {"normal": tuple(SEARCH), "reduce": tuple(SEARCH)}
    assert space(cells=1).candidates == {"normal": tuple(SEARCH)}


@BOTH
def test_none_competes_where_it_is_asked_to_and_no_key_changes_where_it_is_not(space):
    supernet = space(cells=2, channels=4).supernet((1, 8, 8), 3)
    with torch.no_grad():
        for table in supernet.alpha.values():
            table.zero_()
        for kind in ("normal", "reduce"):
            supernet.alpha[kind][:, 4] = 1.0
            # the second node's third input: nearly half an operation, and half none
            supernet.alpha[kind][4, [4, 0]] = torch.tensor([8.0, 8.1])
    ignored, competes = (space(cells=2, channels=4, none=rule).genotype(supernet) for rule in ("ignored", "competes"))
    assert [state for _, state in ignored["normal"][2:4]] == [0, 2]
    assert [state for _, state in competes["normal"][2:4]] == [0, 1]
    assert settings(space(none="competes")) == {**settings(space()), "none": "competes"}
    assert "none" not in settings(space())


@pytest.mark.parametrize(
    ("space", "option", "said"),
    [
        *(
            (space, option, said)
            for space in (Darts, PcDarts)
            for option, said in (
                ({"cells": 0}, "cells is 0; a whole number of at least 1 would do"),
                ({"cells": True}, "cells is True"),
                ({"channels": 1}, "channels is 1; a whole number of at least 2"),
                ({"channels": 2.0}, "channels is 2.0"),
                ({"network_cells": -1}, "network_cells is -1"),
                ({"network_channels": 0}, "network_channels is 0"),
                ({"form": "mnist"}, "form is 'mnist'; cifar or imagenet would do"),
                ({"none": "counts"}, "'none' must be in"),
            )
        ),
        (PcDarts, {"partial": 0}, "partial is 0; a whole number of at least 1 would do"),
        (PcDarts, {"partial": True}, "partial is True"),
        (PcDarts, {"partial": "4"}, "partial is '4'"),
        (PcDarts, {"partial": 3}, "channels is 16; a multiple of partial, which is 3, would do"),
        (PcDarts, {"channels": 10}, "channels is 10; a multiple of partial, which is 4, would do"),
    ],
)
def test_options_are_refused_with_what_would_do(space, option, said):
    with pytest.raises(ValueError, match=said):
        space(**option)


@BOTH
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 7), (1, 28, 28), (3, 33, 33), (2, 1, 5)])
def test_a_supernet_learns_from_any_image(space, shape):
    supernet = space(cells=3, channels=4).supernet(shape, 5)
    logits = supernet(torch.rand(4, *shape))
    assert logits.shape == (4, 5)
    F.cross_entropy(logits, torch.arange(4)).backward()
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    # the columns of `none` too: a softmax moves all of a row
    assert all((alpha.grad != 0).all() for alpha in supernet.alpha.values())


@BOTH
@pytest.mark.parametrize(("cells", "size"), [(1, 8), (2, 4), (3, 2), (4, 2)])
def test_few_cells(space, cells, size):
    space = space(cells=cells, channels=4, network_cells=cells, network_channels=2)
    sizes = []
    for network in (space.supernet((1, 8, 8), 3), space.network(space.published["DARTS_V2"], (1, 8, 8), 3, True)):
        network.cells[-1].register_forward_hook(lambda *call: sizes.append(call[2].shape[-1]))
        network(torch.rand(2, 1, 8, 8))
    assert sizes == [size, size]


@BOTH
def test_both_draw_the_same_genotypes_of_the_seed_alone(space):
    def draws(seed):
        generator = torch.Generator().manual_seed(seed)
        return [space().sample(generator) for _ in range(3)]

    assert draws(0) == draws(0) != draws(1)
    assert draws(0)[0] == Darts().sample(torch.Generator().manual_seed(0))
    assert draws(0)[0]["normal"] != draws(0)[0]["reduce"]
    ops = {op for draw in draws(0) + draws(1) for op, _ in draw["normal"] + draw["reduce"]}
    assert ops == set(SEARCH) - {"none"}


@BOTH
def test_alpha_starts_small_and_mixing_is_its_softmax(space):
    supernet = space(cells=3, channels=4).supernet((1, 8, 8), 3)
    spread = torch.cat([alpha.detach().flatten() for alpha in supernet.alpha.values()])
    assert 0.5e-3 < spread.std() < 2e-3
    for name, mixing in supernet.mixing().items():
        torch.testing.assert_close(mixing, supernet.alpha[name].softmax(-1))
        torch.testing.assert_close(mixing.sum(1), torch.ones(len(mixing)))
