"""What computes here: versions, and the commit of a checkout."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from robustnas.runtime import environment


def test_versions_are_those_of_installed_packages():
    assert environment.versions(["pytest", "no-such-package"]) == {
        "pytest": pytest.__version__,
        "no-such-package": None,
    }
    assert environment.processor()
    assert environment.cores() >= 1


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_a_checkout_and_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def git(*arguments: str) -> str:
        names = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", *names, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    package = tmp_path / "source" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("a = 1\n")
    nothing = {"commit": None, "changed": None}
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment.commit(package) == nothing
    git("init", "-q")
    assert environment.commit(package) == nothing
    (tmp_path / ".gitignore").write_text("venv\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    made = git("rev-parse", "HEAD").strip()
    assert environment.commit(package) == {"commit": made, "changed": False}
    (package / "__init__.py").write_text("a = 2\n")
    assert environment.commit(package) == {"commit": made, "changed": True}
    installed = tmp_path / "venv" / "package"
    shutil.copytree(package, installed)
    assert environment.commit(installed) == nothing, "it is installed into a folder that the checkout ignores"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.commit(package) == nothing, "git is not there"
