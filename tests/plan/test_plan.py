"""The plan: keys name results, shared stages are shared, and only what matters changes a key."""

from __future__ import annotations

import cProfile
import io
import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

from robustnas.data.order import batch_count, shuffled
from robustnas.errors import InputError, RecipeError
from robustnas.plan import KINDS, Plan, Seed, digest, settings
from robustnas.recipe.faults import Faults
from robustnas.recipe.load import load
from robustnas.run import checks, layout, overview
from robustnas.run.data import splits_here
from robustnas.run.directory import RunDirectory
from robustnas.train.settings import Train
from robustnas_plugins.attacks.fgsm import FGSM
from robustnas_plugins.search_spaces.darts import Darts
from support.fake_package import install
from support.tiny_plan import RECIPE, plan

ALL_OF_A_SEARCH = set(KINDS) - {"candidate", "choose", "supernet", "smooth", "score"}
"""The kinds of stages of a method that searches, where nothing is smoothed."""


def keys(found: Plan, kind: str, method: str | None = None) -> set[str]:
    return {s.key for s in found.stages if s.kind == kind and method in (None, s.method)}


def differing(before: Plan, after: Plan, method: str | None = None) -> set[str]:
    """The kinds of stages whose keys differ."""
    return {kind for kind in KINDS if keys(before, kind, method) != keys(after, kind, method)}


def test_every_method_and_seed_has_its_stages(recipe: Path):
    found = plan(recipe)
    kinds = [s.kind for s in found.stages_of("jac", Seed(1))]
    assert kinds == ["search", "train", "clean", "probe", "certify", "attack", "attack"]
    assert len(found.until(None)) == 2 * 2 * 7
    assert {s.kind for s in found.until("search")} == {"search"}
    assert {s.kind for s in found.until("train")} == {"search", "train"}


def test_a_number_of_training_images_changes_what_is_trained_and_nothing_where_it_is_absent(recipe: Path):
    whole, few = plan(recipe), plan(recipe, "dataset.train_images=100")
    assert plan(recipe, "dataset.train_images=null").stages == whole.stages
    assert differing(whole, few) == ALL_OF_A_SEARCH
    assert differing(few, plan(recipe, "dataset.train_images=101")) == ALL_OF_A_SEARCH
    assert len(few.dataset.split("train").labels) == 100
    assert few.dataset.split("train").labels.bincount().tolist() == [10] * 10
    elsewhere = "methods={theirs: {network: 'torch.nn:Flatten'}}"
    assert differing(plan(recipe, elsewhere), plan(recipe, elsewhere, "dataset.train_images=100")) == set()


def test_a_stage_needs_the_one_it_reads(recipe: Path):
    found = plan(recipe)
    by_key = {s.key: s for s in found.stages}
    for stage in found.stages:
        wanted = {"search": set(), "train": {"search"}, "clean": {"train"}}.get(stage.kind, {"train", "clean"})
        assert {by_key[key].kind for key in stage.needs} == wanted
        assert all((by_key[k].method, by_key[k].seed) == (stage.method, stage.seed) for k in stage.needs)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("search.epochs=3", {"search", "train", "clean", "probe", "attack", "certify"}),
        ("search_space.channels=4", {"search", "train", "clean", "probe", "attack", "certify"}),
        ("search_space.network_cells=2", {"train", "clean", "probe", "attack", "certify"}),
        ("train.epochs=2", {"train", "clean", "probe", "attack", "certify"}),
        ("train.match={parameters: 900}", {"train", "clean", "probe", "attack", "certify"}),
        ("train.random_resized_crop=[0.1, 1]", {"train", "clean", "probe", "attack", "certify"}),
        ("evaluate.images=10", {"clean", "probe", "attack", "certify"}),
        ("certify.method=ibp", {"certify"}),
        ("certify.epsilons=[0.01]", {"certify"}),
        ("certify.epsilons=[]", set()),
        ("certify.batch=7", set()),
        ("seeds=[0, 1]", set()),
    ],
)
def test_only_what_matters_changes_a_key(recipe: Path, override: str, changed: set[str]):
    assert differing(plan(recipe), plan(recipe, override)) == changed


@pytest.mark.parametrize(
    ("override", "method", "changed"),
    [
        # neither a search without a metric nor standard training depends on the threat
        ("threat.epsilon=4/255", "darts", {"attack", "certify"}),
        ("threat.epsilon=4/255", "jac", ALL_OF_A_SEARCH),
        # gamma matters only where there is a score
        ("search.gamma=0.5", "darts", set()),
        ("search.gamma=0.5", "jac", ALL_OF_A_SEARCH),
        ("search.gamma={balance: 0.25}", "darts", set()),
        ("search.gamma={balance: 0.25}", "jac", ALL_OF_A_SEARCH),
        # the size of the supernet does not matter to a published genotype
        ("search_space.cells=2", "published", set()),
        ("search_space.cells=2", "darts", ALL_OF_A_SEARCH),
    ],
)
def test_only_what_matters_to_a_method_changes_its_keys(recipe: Path, override: str, method: str, changed: set[str]):
    published = "methods.published={genotype: DARTS_V2}"
    assert differing(plan(recipe, published), plan(recipe, published, override), method) == changed


def test_methods_that_share_a_stage_share_its_result(recipe: Path):
    found = plan(recipe, "methods.same={}")
    for kind in ("search", "train"):
        assert keys(found, kind, "same") == keys(found, kind, "darts")
    assert len(found.until(None)) == 2 * 2 * 7
    none = plan(recipe, "search.gamma=0")
    assert keys(none, "search", "jac") == keys(found, "search", "darts"), "a score that weighs nothing is no score"


def test_keys_that_came_later_change_no_digest_until_they_are_given():
    later = {"random_resized_crop": [0.1, 1.0], "read_size": 8, "colour_jitter": [0.4, 0.4, 0.4, 0.2]}
    before = settings(Train())
    assert settings(Train(**later)) == {**before, **later} != before


def test_where_data_lies_does_not_matter(recipe: Path, tmp_path: Path):
    before, after = plan(recipe, "dataset=mnist"), plan(recipe, f"dataset={{name: mnist, folder: {tmp_path}}}")
    assert differing(before, after) == set()
    assert before.identity == after.identity


def test_images_of_one_s_own_are_known_by_their_files_and_not_by_their_folder(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "own.py").write_text("import torch\n\ndef net():\n    return torch.nn.Flatten()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for number, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (tmp_path / "here" / place).mkdir(parents=True)
        (tmp_path / "here" / place / "0.png").write_bytes(b"x" * number)

    def found(folder: str) -> Plan:
        dataset = f"dataset={{name: image-folder, folder: {tmp_path / folder}, size: 8}}"
        return plan(recipe, dataset, "methods.own={network: own:net}")

    before = found("here")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = found("there")
    assert differing(before, moved) == set()
    assert moved.identity == before.identity
    (tmp_path / "there" / "test" / "a" / "0.png").write_bytes(b"mended")
    mended = found("there")
    assert differing(moved, mended) == {"clean", "probe", "attack", "certify"}, "no search and no training is lost"
    assert not keys(mended, "clean", "own") & keys(moved, "clean", "own"), "a network made elsewhere is measured again"
    assert mended.identity == moved.identity, "nor is the run directory another experiment's"
    (tmp_path / "there" / "train" / "a" / "1.png").write_bytes(b"more")
    after = found("there")
    assert differing(mended, after) == {"search", "train", "clean", "probe", "attack", "certify"}
    assert differing(mended, after, "own") == set(), "what it was trained with is not known"
    assert after.identity != mended.identity


def test_another_attack_leaves_the_others_alone(recipe: Path):
    before = plan(recipe)
    after = plan(
        recipe, "attacks=[fgsm, {name: pgd, steps: 2, step_size: 2/255}, {name: pgd, steps: 3, step_size: 2/255}]"
    )
    assert keys(before, "attack") < keys(after, "attack")
    assert keys(before, "train") == keys(after, "train")


SEVERAL = (
    "attacks=[{name: square, queries: 10}, {name: pgd, steps: 9, step_size: 2/255}, fgsm, "
    "{name: deepfool, threat: {norm: l2, epsilon: 0.5}}, {name: transfer, steps: 2, step_size: 2/255}, corruptions]"
)


def test_attacks_go_from_cheap_to_expensive_and_each_waits_for_those_before_it_in_its_norm(recipe: Path):
    found = plan(recipe, SEVERAL)
    stages = [s for s in found.stages_of("jac", Seed(0)) if s.kind == "attack"]
    labels = [s.column.label for s in stages]
    assert labels == ["fgsm", "pgd-9", "deepfool (l2 0.5)", "transfer-2", "square", "corruptions"]
    by_key = {s.key: s.column.label for s in stages}
    after = {s.column.label: [by_key[key] for key in s.after if key in by_key] for s in stages}
    assert after["fgsm"] == after["deepfool (l2 0.5)"] == after["transfer-2"] == after["corruptions"] == []
    assert after["pgd-9"] == ["fgsm"]
    assert after["square"] == ["fgsm", "pgd-9", "transfer-2"]
    certify = found.stage("certify", "jac", Seed(0))
    assert all(certify.key in s.after for s in stages), "what fools is held against the certificates"
    assert [c.label for c in found.columns if c.worst_case] == ["fgsm", "pgd-9", "transfer-2", "square"]


def test_attacks_on_all_images_wait_for_no_attack(recipe: Path):
    found = plan(recipe, SEVERAL, "evaluate.attacked=all")
    attacks = {s.key for s in found.stages if s.kind == "attack"}
    assert len(attacks) == 4 * 6
    assert not any(attacks.intersection(s.after) for s in found.stages)


def test_images_of_transfer_need_the_other_networks(recipe: Path):
    found = plan(recipe, SEVERAL)
    stage = found.stage("attack", "jac", Seed(0), "transfer-2")
    assert found.networks["darts", Seed(0)] in stage.needs
    with pytest.raises(RecipeError, match=r"transfer-2 .* there is one method"):
        plan(recipe, SEVERAL, "methods.jac=null", "methods={darts: {}}")


def test_a_smaller_radius_of_the_same_norm_is_inside_the_threat(recipe: Path):
    found = plan(
        recipe,
        "attacks=[fgsm, {name: fgsm, label: a, threat: {epsilon: 1/255}}, "
        "{name: fgsm, label: b, threat: {epsilon: 0.5}}]",
        "evaluate.epsilons=[4/255, 1.0]",
    )
    columns = {c.label: c for c in found.columns}
    assert {label: c.worst_case for label, c in columns.items()} == {"fgsm": True, "a": True, "b": False}
    assert columns["fgsm"].radii == (4 / 255, found.threat.epsilon, 1.0)
    assert columns["a"].radii == (1 / 255,)


def test_a_published_genotype_needs_no_search(recipe: Path):
    found = plan(recipe, "methods.published={genotype: DARTS_V2}")
    assert found.stages_of("published", Seed(0))[0].kind == "train"
    assert found.methods["published"].genotype is not None


def test_a_genotype_s_network_is_counted_in_the_size_that_is_trained(recipe: Path):
    own, small = (
        "methods.own={genotype: DARTS_V2}",
        "methods.small={genotype: DARTS_V2, train: {match: {parameters: 500}}}",
    )
    found = plan(recipe, "train.match={parameters: 2000, cells: [1, 2]}", own, small)
    assert abs(found.methods["own"].parameters - 2000) < 250
    assert abs(found.methods["small"].parameters - 500) < 100
    key = {name: found.stage("train", name, Seed(0)).key for name in ("own", "small")}
    assert key["own"] != key["small"]
    assert not found.notes, "the size of the trained network is no default then"


def test_steps_are_counted_as_the_stages_take_them():
    sizes = [(count, batch) for count in range(1, 12) for batch in range(1, 6)]
    taken = {size: len(shuffled(torch.arange(size[0]), size[1], torch.Generator())) for size in sizes}
    assert {size: batch_count(*size) for size in sizes} == taken
    assert taken[9, 4] == 2, "an image left alone joins the batch before it"


def test_what_plugins_refuse_of_the_dataset_is_told_at_once_and_in_place(recipe: Path):
    recipe.write_text(
        RECIPE.replace("metric: jacobian", "metric: {name: jacobian, rows: 11}").replace(
            "[fgsm,", "[{name: corruptions, families: [saturate]},"
        )
        + "# end\n"
    )
    with pytest.raises(RecipeError) as caught:
        plan(recipe, "methods.two={metric: [certified-bound, {name: jacobian, rows: 12}]}", "methods.p={genotype: NO}")
    lines = RECIPE.splitlines()
    rows, attacks = (next(i for i, line in enumerate(lines, 1) if word in line) for word in ("jacobian", "attacks"))
    places = [re.split(": found|, found| of a network", fault)[0] for fault in caught.value.faults]
    assert places == [
        f"{recipe}:{rows}:17: methods.jac.metric: rows: 11",
        f"{recipe}:{attacks}:11: attacks.0: saturate needs images of three channels",
        "--set methods.two={metric: [certified-bound, {name: jacobian, rows: 12}]}: methods.two.metric.1: rows: 12",
        "--set methods.p={genotype: NO}: methods.p.genotype",
    ]
    assert plan(recipe, "methods.jac.metric.rows=10", "attacks.0=fgsm").methods["jac"].metrics


@pytest.mark.parametrize("name", ["direct", "exported"])
def test_another_version_of_a_third_party_plugin_is_another_result(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """However the package exports it: from the module that defines it, or from its top."""
    root = tmp_path / "site"
    (root / "stranger").mkdir(parents=True)
    (root / "stranger" / "__init__.py").write_text("from stranger.impl import M\n")
    (root / "stranger" / "impl.py").write_text(
        "from attrs import frozen\n@frozen\nclass M:\n"
        "    def score(self, network, images, labels, threat):\n        return network(images).amax(dim=1)\n"
    )
    monkeypatch.syspath_prepend(str(root))
    found = []
    for version in ("1.0", "2.0"):
        info = root / "stranger.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: stranger\nVersion: {version}\n")
        target = {"direct": "stranger.impl:M", "exported": "stranger:M"}[name]
        (info / "entry_points.txt").write_text(f"[robustnas.metrics]\nstrange = {target}\n")
        found.append(keys(plan(recipe, "methods.s={metric: strange}"), "search", "s"))
    assert found[0] != found[1]


def test_an_option_without_a_value_that_can_be_written_down_is_refused():
    with pytest.raises(InputError, match="has no value that can be written down"):
        digest("search", {"option": object()})
    assert digest("search", {"option": {"a", "b"}}) == digest("search", {"option": {"b", "a"}})


MANY = """
dataset: digits
search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 8/255}
seeds: [0, 1, 2]
attacks: [fgsm, {name: pgd, steps: 2, step_size: 2/255}, {name: square, queries: 5}]
methods:
"""
SORTS = (
    "metric: jacobian, search: {gamma: 1e-%d}",
    "genotype: DARTS_V2, train: {lr: 1e-%d}",
    "genotype: 'many.json#%d'",
    "search_space: {cells: 1}, train: {lr: 2e-%d}",
)
"""Of methods, all of which differ in the number."""


def test_a_plan_takes_time_in_proportion_to_its_rows(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    built: list[int] = []
    for name in ("supernet", "network"):
        monkeypatch.setattr(Darts, name, counted(getattr(Darts, name), built))
    cell = json.dumps(Darts().published["DARTS_V2"])
    cells = ",".join(f'"{number}": {cell}' for number in range(32))
    (recipe.parent / "many.json").write_text(f"{{{cells}}}", encoding="utf-8")
    directory = RunDirectory(recipe.parent / "run")
    calls, networks = [], []
    for turn, count in enumerate((4, 4, 8, 16)):
        methods = [f"  m{number}: {{{SORTS[number % 4] % number}}}\n" for number in range(count)]
        recipe.write_text(MANY + "".join(methods), encoding="utf-8")
        built.clear()
        watched = cProfile.Profile()
        if turn:  # the first is for what is imported and cached
            watched.enable()
        found = plan(recipe)
        here = checks.check(found, load(recipe), Faults(), partial(splits_here, found))
        overview.show(found, directory, Console(file=io.StringIO()), here.labels)
        layout.describe(found, directory, [])
        watched.disable()
        calls.append(sum(entry.callcount for entry in watched.getstats()))
        networks.append(len(built))
    assert len(found.stages) == 3 * (8 * 8 + 8 * 7)
    assert calls[3] - calls[2] < 2.2 * (calls[2] - calls[1]), "calls of functions, for twice as many rows each"
    assert networks[1] == networks[3] <= 12, "each network that differs is built once by each who asks"


def counted(method, built: list[int]):
    """A method that notes that it was called."""

    def noting(self, *arguments, **options):
        built.append(1)
        return method(self, *arguments, **options)

    return noting


STRANGERS = """
from attrs import frozen

@frozen
class Ours:
    rate: float = 0.5

    def gradient(self, step): ...

@frozen
class Theirs:
    sees_threat = False

    def loss(self, network, images, labels, threat, context): ...
"""


def test_a_strangers_order_and_regime_are_plugins_like_ours(recipe: Path, tmp_path: Path, monkeypatch):
    """By name, with options, in the keys with the package they come from."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    points = {
        "robustnas.orders": {"ours": "strange_engines:Ours"},
        "robustnas.regimes": {"theirs": "strange_engines:Theirs"},
    }
    found = []
    for version in ("1.0", "1.1"):
        install(tmp_path / "site", "strange-engines", points, version, strange_engines=STRANGERS)
        found.append(plan(recipe, "search.order={name: ours, rate: 0.25}", "train.regime=theirs"))
        shutil.rmtree(tmp_path / "site")
    before = plan(recipe)
    assert all(keys(before, kind) != keys(found[0], kind) != keys(found[1], kind) for kind in ("search", "train"))
    method = found[0].methods["darts"]
    assert method.search.order.rate == 0.25
    assert type(method.train.regime).__name__ == "Theirs"


def test_an_attack_is_keyed_by_its_contents_for_the_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)

    def key(train: str, test: str) -> str:
        monkeypatch.setattr(FGSM, "contents", {"train": train, "test": test}, raising=False)
        made = plan(recipe)
        return next(stage.key for stage in made.stages if stage.column is not None and stage.column.label == "fgsm")

    assert key("a", "b") == key("other", "b") != key("a", "other")
