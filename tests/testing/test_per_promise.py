"""All that is broken is told, each promise once, and each is one test of pytest."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen

from robustnas.cli import main
from robustnas.registry import REGISTRIES
from robustnas.testing import CHECKS, ConformanceError, check_metric, parametrize, promises
from robustnas.testing.meanings import MEANINGS, OPTIONAL
from support.fake_package import install
from support.kept_promises import Slope, wrong


@frozen
class Careless(Slope):
    """Breaks three promises that have nothing to do with each other: the sign, the mode, and the batch."""

    def score(self, network, images, labels, threat):
        score = -super().score(network, images, labels, threat)
        network.train()
        return score + images.mean()


BROKEN = [
    "score leaves the mode of the network as they were",
    "score of an image depends on that image alone",
    "score does not grow with epsilon",
]


def test_every_broken_promise_is_told_once_with_what_it_usually_means():
    with pytest.raises(ConformanceError, match="Careless breaks 3 promises of its contract") as caught:
        check_metric(Careless(), norms=("linf", "l2"))  # and two networks
    assert [one.promise for one in caught.value.broken] == BROKEN
    text = str(caught.value)
    assert text.count("promised: ") == text.count("usually:  ") == 3
    assert "usually:  a mean over the batch? reduction='sum' would do" in text
    assert "score is differentiable in alpha" in caught.value.tried


def test_a_broken_promise_is_one_failed_test():
    test = parametrize("metric", Careless(), norms=("linf",))
    (mark,) = test.pytestmark  # type: ignore[attr-defined]
    name, cases = mark.args
    assert name == "promise"
    assert cases == promises("metric", Careless())
    failed = []
    for case in cases:
        try:
            test(case)
        except pytest.fail.Exception as fault:
            failed.append((case, f"promised: {case}" in str(fault)))
    assert sorted(failed) == sorted((case, True) for case in BROKEN)


def test_what_needs_a_broken_promise_is_skipped():
    test = parametrize("metric", wrong(Slope, score=lambda self, *given: torch.ones(())), norms=("linf",))
    with pytest.raises(pytest.fail.Exception, match="shape"):
        test("score is a tensor of shape (N,), a number an image")
    with pytest.raises(pytest.skip.Exception):
        test("score does not grow with epsilon")


def test_members_that_a_plugin_does_not_have_promise_nothing():
    listed = promises("metric", Slope)
    assert "is made with default options" in listed
    assert "is made with default options" not in promises("metric", Slope())
    assert not [promise for promise in listed if promise.startswith(("inner_loss", "outer_loss", "at ", "check"))]
    assert set(check_metric(Slope, norms=("linf",))) == set(listed)


def test_every_kind_has_a_check_and_meanings():
    assert set(CHECKS) == set(MEANINGS)
    assert set(CHECKS) <= set(REGISTRIES)
    texts = [promise for kind in MEANINGS.values() for promise in kind]
    assert len(texts) > 150
    assert all(meaning for kind in MEANINGS.values() for meaning in kind.values())
    for name in OPTIONAL:
        assert any(promise.split()[0] == name for promise in texts), name


METRIC = """
    from attrs import field, frozen

    @frozen
    class Constant:
        size: int = field()

        def score(self, network, images, labels, threat):
            return 0 * images.sum((1, 2, 3)) + self.size
"""


def test_an_installed_plugin_is_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    install(
        tmp_path, "pkg-constant", {"robustnas.metrics": {"constant": "fake_constant:Constant"}}, fake_constant=METRIC
    )
    check = ["plugins", "check", "metric", "constant"]
    assert main(check) == 2
    assert "size: missing" in capsys.readouterr().err
    assert main([*check, "--set", "size=2", "--kit", "norm=[linf]"]) == 2
    assert "--kit norm=[linf]: norm: unknown option of check_metric; did you mean 'norms'?" in capsys.readouterr().err
    assert main([*check, "--set", "size=2", "--kit", "norms=3"]) == 2
    assert "--kit norms=3: norms: found 3; list of text would do" in capsys.readouterr().err
    assert main([*check, "--set", "size=2", "--kit", "norms=[linf]"]) == 1
    told = capsys.readouterr().out
    assert "Constant breaks a promise of its contract" in told
    assert "usually:  a score of the images alone" in told
    assert main(["plugins", "check", "regime", "standard", "--kit", "norms=[linf]"]) == 0
    assert "regime standard keeps its contract" in capsys.readouterr().out
