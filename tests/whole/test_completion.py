"""`robustnas completion`: what shells answer, asked as they ask."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from robustnas.cli import main
from robustnas.recipe import shelf

ASKED = {
    "robustnas ": ["run", "plan", "completion"],
    "robustnas pl": ["plan", "plugins"],
    "robustnas run ": shelf.names(),
    "robustnas run quick": ["quickstart"],
    "robustnas run quickstart --until ": ["search", "train"],
    "robustnas run quickstart --un": ["--until"],
    "robustnas table x --format m": ["markdown"],
    "robustnas recipes ": ["list", "show", "copy", "schema"],
    "robustnas recipes show mnist-": ["mnist-certified"],
    "robustnas plugins show search": ["search-space"],
    "robustnas completion ": ["bash", "zsh", "fish"],
    "robustnas run --set ": [],
}
"""What is typed, and some of what completes it; nothing: files."""

HARNESS = {
    "bash": """
source {script}
for typed in {asked}; do
  COMP_WORDS=($typed); [[ $typed == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
  _robustnas
  echo "${{COMPREPLY[*]}}"
done
[[ "$(complete -p robustnas)" == *"-o default -F _robustnas robustnas" ]]
""",
    "zsh": """
compdef() {{ }}
compadd() {{ shift; print -n -- "${{(@M)@:#${{now}}*}} " }}
_files() {{ }}
source {script}
for typed in {asked}; do
  words=(${{=typed}}); [[ $typed == *" " ]] && words+=("")
  CURRENT=$#words
  _robustnas; print
done
""",
    "fish": """
source {script}
for typed in {asked}
  echo (complete -C $typed | string split -f 1 \\t)
end
""",
}


@pytest.mark.parametrize("shell", list(HARNESS))
def test_a_shell_answers(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    assert main(["completion", shell]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "home").mkdir()
    asked = " ".join(f"'{typed}'" for typed in ASKED)
    harness = HARNESS[shell].format(script=tmp_path / "script", asked=asked)
    told = subprocess.run(
        [program, *(["--no-config"] if shell == "fish" else ["-f"] if shell == "zsh" else []), "-c", harness],
        cwd=tmp_path / "home", env={"HOME": str(tmp_path / "home"), "PATH": str(Path(program).parent)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stderr == ""
    answers = dict(zip(ASKED, told.stdout.split("\n"), strict=False))
    for typed, expected in ASKED.items():
        found = answers[typed].split()
        if typed in ("robustnas ",):
            assert set(expected) <= set(found)
        else:
            assert sorted(found) == sorted(expected), typed


def test_another_shell_is_told_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zhs"]) == 2
    assert "bash, zsh, fish would do; did you mean 'zsh'?" in capsys.readouterr().err
