"""Registries: what is listed, what is loaded, and what is said of a plugin that is wrong."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from robustnas import contracts
from robustnas.errors import PluginError
from robustnas.options import options_of
from robustnas.registry import ATTACKS, DATASETS, METRICS, REGISTRIES, SEARCH_SPACES, Registry, metric_parts
from support.fake_package import install
from support.imported import imported

GOOD = """
    from attrs import field, frozen

    @frozen
    class Good:
        '''A metric.

        Args:
            width: how wide.
        '''
        width: int = 3
        share: float = field(default=0.25, metadata={"help": "how much"})

        def score(self, network, images, labels, threat):
            return images
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where packages can be installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def metric(site: Path, source: str, name: str = "fake", target: str = "Good", **options: str) -> None:
    module = f"fake_{name.replace('-', '_')}"
    points = {"robustnas.metrics": {name: f"{module}:{target}"}}
    install(site, f"pkg-{name}", points, **options, **{module: source})


def refused(name: str, registry: Registry = METRICS) -> str:
    with pytest.raises(PluginError) as caught:
        registry.load(name)
    return str(caught.value)


def test_a_new_installation_is_seen_at_once_in_the_same_process(site: Path) -> None:
    assert "fake" not in METRICS.names()
    metric(site, GOOD)
    assert "fake" in METRICS.names()
    assert METRICS.load("fake").__name__ == "Good"


def test_a_changed_installation_is_seen_at_once(site: Path) -> None:
    metric(site, GOOD)
    METRICS.load("fake")
    info = next(site.glob("*.dist-info"))
    stamp = info.stat()
    (info / "entry_points.txt").write_text("[robustnas.metrics]\nrenamed = fake_fake:Good\n")
    os.utime(info, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # within the resolution of any cache
    assert "renamed" in METRICS.names()
    assert "fake" not in METRICS.names()
    assert METRICS.load("renamed").__name__ == "Good"
    assert "no metric is called 'fake'" in refused("fake")


def test_listing_imports_nothing(site: Path) -> None:
    metric(site, "raise RuntimeError('imported')")
    assert "fake" in METRICS.names()
    (entry,) = (entry for entry in METRICS.entries() if entry.name == "fake")
    assert (entry.target, entry.provider) == ("fake_fake:Good", "pkg-fake 1.0")
    assert "fake_fake" not in sys.modules


def test_a_name_of_two_distributions_names_both(site: Path) -> None:
    for name, version in (("first-pack", "1.2"), ("second-pack", "3.4")):
        install(site, name, {"robustnas.metrics": {"twin": "fake_twin:Good"}}, version, fake_twin=GOOD)
    conflict = METRICS.conflicts()["twin"]
    assert [entry.provider for entry in conflict] == ["first-pack 1.2", "second-pack 3.4"]
    assert METRICS.names().count("twin") == 1
    message = refused("twin")
    assert "first-pack 1.2" in message
    assert "second-pack 3.4" in message
    assert "jacobian" not in METRICS.conflicts()


def test_one_distribution_found_twice_is_no_conflict(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric(site, GOOD)
    points = list(importlib.metadata.entry_points(group="robustnas.metrics"))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda: importlib.metadata.EntryPoints([*points, *points]))
    assert METRICS.conflicts() == {}
    assert METRICS.load("fake").__name__ == "Good"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("assert False, 'needs a newer torch'", "AssertionError: needs a newer torch"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import pytest; pytest.skip('not here', allow_module_level=True)", "Skipped: not here"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError"),
        ("Good = None", "not a class"),
        ("", "AttributeError"),
    ],
)
def test_whatever_an_import_raises_is_told_and_stops_nothing_else(site: Path, source: str, told: str) -> None:
    metric(site, source, name="bad")
    metric(site, GOOD, name="fine")
    message = refused("bad")
    assert told in message
    assert "metric 'bad'" in message
    assert "pkg-bad 1.0" in message
    assert "fake_bad:Good" in message
    assert METRICS.load("fine").__name__ == "Good"


def test_an_interrupt_while_importing_is_not_swallowed(site: Path) -> None:
    metric(site, "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        METRICS.load("fake")


def test_an_unknown_name_says_what_would_do() -> None:
    message = refused("jacobain")
    assert "did you mean 'jacobian'?" in message
    assert "installed: adversarial-alpha" in message
    assert "robustnas.metrics" in message


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        ("def score(self, model, x): ...", "found:    score(self, model, x)"),
        ("def score(self, network, images, labels): ...", "found:    score(self, network, images, labels)"),
        ("def score(self, images, network, labels, threat): ...", "found:    score(self, images, network"),
        ("def score(self, network, images, labels, threat, k): ...", "threat, k)"),
        ("def score(self, network, images, labels, threat, *, k): ...", "threat, *, k)"),
        ("def score(self, network, images, labels, *, threat): ...", "found:    score("),
        ("score = 3", "no method"),
        ("def inner_loss(self, supernet, images, labels, threat): ...", "found:    inner_loss("),
        ("def evaluate(self): ...", "the methods evaluate"),
        ("pass", "no method"),
        (
            "def score(self, network, images, labels, threat): ...\n    def check(self, shape, threat): ...",
            "promised: check(self, shape, classes, threat)",
        ),
    ],
)
def test_a_metric_with_another_signature_says_promised_and_found(site: Path, methods: str, complaint: str) -> None:
    metric(site, f"class Good:\n    {methods}\n")
    message = refused("fake")
    assert "does not keep its contract" in message
    assert "promised: " in message
    assert complaint in message


@pytest.mark.parametrize(
    "methods",
    [
        "def score(self, network, images, labels, threat): ...",
        "def score(self, network, images, labels, threat, rows=3, *, exact=False): ...",
        "def score(self, *args, **kwargs): ...",
        "@staticmethod\n    def score(network, images, labels, threat): ...",
        "@classmethod\n    def score(cls, network, images, labels, threat): ...",
        "def inner_loss(self, supernet, images, labels, threat, context): ...",
        "def outer_loss(self, supernet, images, labels, threat, context): ...",
    ],
)
def test_a_metric_that_keeps_one_part_is_complete(site: Path, methods: str) -> None:
    metric(site, f"class Good:\n    {methods}\n")
    assert len(metric_parts(METRICS.load("fake"))) == 1


def test_the_contract_inherited_is_not_the_contract_kept(site: Path) -> None:
    metric(
        site,
        """
        from robustnas.contracts import RobustnessMetric

        class Good(RobustnessMetric):
            pass
        """,
    )
    assert "at least one of" in refused("fake")


def test_attacks_search_spaces_and_datasets_are_compared_too(site: Path) -> None:
    source = """
        from attrs import frozen

        class NoBuild:
            def check(self, images): ...

        class Space:
            def supernet(self, shape, classes): ...
            def genotype(self, alpha): ...
            def network(self, genotype, shape, classes, auxiliary): ...

        class Dataset:
            shape = (1, 2, 2)
            classes = 2
            def split(self, part): ...

        @frozen
        class Fine:
            shape: tuple = (1, 2, 2)
            classes: int = 2
            mean: tuple = (0.0,)
            @property
            def std(self): return (1.0,)
            def split(self, name): ...
    """
    points = {
        "robustnas.attacks": {"fake": "fake_others:NoBuild"},
        "robustnas.search_spaces": {"fake": "fake_others:Space"},
        "robustnas.datasets": {"fake": "fake_others:Dataset", "fine": "fake_others:Fine"},
    }
    install(site, "pkg-others", points, fake_others=source)
    attack = refused("fake", ATTACKS)
    assert "promised: build(self, threat)" in attack
    assert "foolbox" in attack
    assert "found:    check(self, images)" in attack
    space = refused("fake", SEARCH_SPACES)
    assert "found:    genotype(self, alpha)" in space
    assert "promised: network(self, genotype, shape, classes, auxiliary=False)" in space
    assert "supernet(self" not in space
    dataset = refused("fake", DATASETS)
    assert "no mean, no std" in dataset
    assert "found:    split(self, part)" in dataset
    assert DATASETS.load("fine").__name__ == "Fine"


def test_a_foolbox_attack_class_may_be_registered_as_it_is(site: Path) -> None:
    install(site, "pkg-fb", {"robustnas.attacks": {"lib-pgd": "foolbox.attacks:LinfPGD"}})
    options = options_of(ATTACKS.load("lib-pgd"))
    assert list(options) == ["rel_stepsize", "abs_stepsize", "steps", "random_start"]
    assert options["steps"].type is int
    assert options["steps"].default == 40
    assert options["abs_stepsize"].type_text == "number or null"
    assert "tepsize" in options["rel_stepsize"].help


def test_options_of_an_attrs_class(site: Path) -> None:
    metric(site, GOOD)
    options = options_of(METRICS.load("fake"))
    told = [(o.name, o.type_text, o.default_text, o.help) for o in options.values()]
    assert told == [("width", "integer", "3", "how wide."), ("share", "number", "0.25", "how much")]


def test_stevedore_still_has_the_hook_that_loading_relies_on() -> None:
    from stevedore.driver import DriverManager

    assert isinstance(DriverManager.ENTRY_POINT_CACHE, dict)


def test_listing_and_help_import_nothing_heavy() -> None:
    for arguments in (
        "--help",
        "plugins list",
        "recipes list",
        "recipes show quickstart",
        "run --help",
        "completion bash",
    ):
        assert imported(*arguments.split()) == (0, set()), arguments


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contracts of which there are three versions."""
    history = {1: {}, 2: {"attack": "build takes a seed"}, 3: {"metric": "score takes a context; add context=None"}}
    monkeypatch.setattr(contracts, "HISTORY", history)


def versioned(site: Path, version: object) -> None:
    metric(site, GOOD.replace("width: int = 3", f"contract = {version!r}\n        width: int = 3"))


@pytest.mark.usefixtures("changed")
@pytest.mark.parametrize("version", [1, 2])
def test_an_old_plugin_is_told_what_changed_of_its_kind_and_what_to_change(site: Path, version: int) -> None:
    versioned(site, version)
    told = refused("fake")
    assert f"it was written for version {version} of the contract; this is version 3, so change it" in told
    assert "since version 3: score takes a context; add context=None\n  then contract = 3" in told
    assert "seed" not in told


@pytest.mark.usefixtures("changed")
@pytest.mark.parametrize(
    ("version", "told"),
    [(4, "this robustnas knows 3; pip install -U robustnas would do"), ("1", "found contract = '1'")],
)
def test_a_newer_version_or_none_at_all_is_refused(site: Path, version: object, told: str) -> None:
    versioned(site, version)
    assert told in refused("fake")


@pytest.mark.usefixtures("changed")
def test_a_plugin_of_the_latest_version_or_of_none_is_loaded(site: Path) -> None:
    versioned(site, 3)
    assert METRICS.load("fake").__name__ == "Good"
    metric(site, GOOD.replace("width: int = 3", "contract: str = 'an option'"), name="option")
    metric(site, GOOD, name="silent")
    assert options_of(METRICS.load("option"))["contract"].default == "an option"
    assert METRICS.load("silent").__name__ == "Good"


def test_the_history_of_the_contracts_is_of_kinds_that_there_are() -> None:
    assert sorted(contracts.HISTORY) == list(range(1, len(contracts.HISTORY) + 1))
    assert {kind for changes in contracts.HISTORY.values() for kind in changes} <= set(REGISTRIES)
