"""What `robustnas plugins new` writes: a distribution with one plugin, which works, its tests and a recipe."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
from pathlib import Path
from string import Template

from robustnas.errors import InputError
from robustnas.registry import REGISTRIES
from robustnas.registry.plugin_file import NAME
from robustnas.runtime.quoted import quoted
from robustnas.runtime.terminal import tell

EXAMPLES = Path(__file__).parents[1] / "testing" / "examples"
"""A module of each kind, read as text: importing it would take torch."""

LONGEST = 60
"""Characters that a name may have."""

PYPROJECT = Template("""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "$distribution"
version = "0.1.0"
description = "The $words $name for robustnas"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["robustnas"]

[project.optional-dependencies]
dev = ["pytest"]

[project.entry-points."$group"]
$name = "$package.$module:$cls"

[tool.pytest.ini_options]
testpaths = ["tests"]
""")

README = Template("""\
# $distribution

The $words `$name` for robustnas, in [$module.py](src/$package/$module.py).

```
pip install -e ".[dev]"     # again after a change of pyproject.toml
python -m pytest            # a test for each promise of the contract
robustnas run recipe.yaml$typed   # $shown
```
""")

TEST = Template("""\
\"\"\"Holds $name to the contract of its kind: a test for each promise.\"\"\"

from robustnas.testing import parametrize

from $package.$module import $cls

test_promises = parametrize("$kind", $cls($small))
""")

RECIPE = Template("""\
# The $words $name, on small networks: a minute on one CPU core.
#   robustnas run recipe.yaml$typed
dataset: $dataset
search_space: $space
threat: {norm: linf, epsilon: 0.01} # of the pixel range
seeds: [0]
search: {epochs: 2, batch: 128}
methods:
$methods
train: {epochs: 3, batch: 64, cutout: 0, auxiliary: 0, drop_path: 0, lr: 0.05}
attacks: [$attacks]
evaluate: {images: 200}
certify: false
$more""")

USUAL = {
    "dataset": "digits",
    "space": "{name: darts, cells: 2, channels: 4, network_cells: 2, network_channels: 4}",
    "methods": "  darts: {}",
    "attacks": "fgsm",
    "small": "",
    "more": "",
    "typed": "",
    "shown": "its row in a table, beside plain DARTS",
}

DIFFERENT = {
    "metric": {"methods": "  darts: {}\n  $name: {metric: $name}"},
    "attack": {"attacks": "fgsm, $name", "shown": "its column in a table, beside another attack"},
    "dataset": {"dataset": "$name", "shown": "a table of it"},
    "search-space": {
        "space": "$name",
        "methods": "  darts: {}\n  random: {strategy: random}",
        "small": "channels=4, network_channels=4",
        "shown": "a table of it: DARTS and random search in this space",
    },
    "strategy": {"methods": "  darts: {}\n  $name: {strategy: {name: $name, candidates: 3}}"},
    "order": {"methods": "  darts: {}\n  $name: {search: {order: $name}}"},
    "regime": {
        "methods": "  darts: {}\n  $name: {train: {regime: $name}}",
        "shown": "its row in a table, beside standard training",
    },
    "tracker": {"more": "trackers: [$name]\n", "shown": "a table, and what it wrote in runs/recipe/trackers"},
    "executor": {"typed": " --executor $name", "shown": "a table, its stages done by it"},
}
"""By kind of plugin: what of `USUAL` is different."""


def new(arguments: argparse.Namespace) -> int:
    """Write the distribution into a new folder, and say what to type next."""
    files = written(arguments.kind, arguments.name)
    folder: Path = arguments.output or Path(f"robustnas-{arguments.name}")
    try:
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    except FileExistsError:
        raise InputError(f"{folder} is there already, and nothing is overwritten; another --output would do") from None
    except OSError as fault:
        raise InputError(f"{folder}: cannot be written: {fault.strerror}; another --output would do") from None
    (source,) = (name for name in files if name.startswith("src/") and not name.endswith("__init__.py"))
    tell(f"{folder}\n  cd {folder}\n  " + "\n  ".join(README.template.split("```")[1].strip().splitlines()[:2]))
    typed = Template(DIFFERENT[arguments.kind].get("typed", "")).substitute(name=arguments.name)
    tell(f"  robustnas run recipe.yaml{typed}\nthen change {source}")
    return 0


def written(kind: str, name: str) -> dict[str, str]:
    """The files of the distribution, text by path.

    Raises:
        InputError: the name is none, or is taken.
    """
    module = name.replace("-", "_")
    package = f"robustnas_{module}"
    if not re.fullmatch(NAME, name) or len(name) > LONGEST or name[0].isdigit() or keyword.iskeyword(module):
        near = "-".join(re.findall("[a-z0-9]+", name.lower())).lstrip("0123456789-")[:LONGEST].strip("-")
        near = f"{near}-{kind}" if keyword.iskeyword(near) else near
        raise InputError(
            f"found the name {quoted(name)}; small letters, digits and hyphens would do, a letter first, "
            f"at most {LONGEST}: {near or 'my-' + kind}"
        )
    for entry in REGISTRIES[kind].entries():
        if entry.name == name:
            raise InputError(f"{entry.provider} registers the {kind} {name!r} already; another name would do")
    if importlib.util.find_spec(package) is not None:
        raise InputError(f"a package {package} is installed already; another name would do")
    example = (EXAMPLES / f"{kind.replace('-', '_')}.py").read_text(encoding="utf-8")
    cls = "".join(word.capitalize() for word in name.split("-"))
    if keyword.iskeyword(cls) or re.search(rf"\b{cls}\b", example):  # it would hide a name that the module uses
        cls += "".join(word.capitalize() for word in kind.split("-"))
    words = {
        "kind": kind,
        "words": kind.replace("-", " ") if kind != "regime" else "training regime",
        "name": name,
        "module": module,
        "package": package,
        "distribution": f"robustnas-{name}",
        "cls": cls,
        "group": REGISTRIES[kind].group,
    }
    parts = {key: Template(text).substitute(words) for key, text in (USUAL | DIFFERENT[kind]).items()}
    code = re.sub(r"\bexample\b", name, re.sub(r"\bExample\b", cls, example))
    return {
        "pyproject.toml": PYPROJECT.substitute(words),
        "README.md": README.substitute(words, **parts),
        "recipe.yaml": RECIPE.substitute(words, **parts),
        f"src/{package}/__init__.py": f'"""The {words["words"]} {name} for robustnas."""\n',
        f"src/{package}/{module}.py": code,
        f"tests/test_{module}.py": TEST.substitute(words, **parts),
    }
