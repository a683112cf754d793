"""What each command does; all return an exit status."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import TypeVar

from robustnas.cli.output import given, print_table
from robustnas.errors import InputError
from robustnas.runtime import interrupt
from robustnas.runtime.strangers import text_of
from robustnas.runtime.terminal import tell, write

Value = TypeVar("Value")


def run(arguments: argparse.Namespace, *, ranks: bool = False) -> int:
    end = None if arguments.budget is None else time.monotonic() + arguments.budget
    with interrupt.listening(arguments.quiet):  # a Ctrl-C that raises inside an import may be swallowed there
        from robustnas.recipe.executor import executor_of
        from robustnas.recipe.load import load

        loaded = load(arguments.recipe, _overrides(arguments))
        if ranks and loaded.recipe.rank is None:
            loaded = load(arguments.recipe, [*_overrides(arguments), "rank={}"])
        interrupt.check()
        executor = executor_of(arguments.executor, "--executor")
        from robustnas import pipeline  # imports torch, which a recipe with faults need not wait for
        from robustnas.run.shards import Shard

        interrupt.check()
        return pipeline.run(
            loaded,
            out=arguments.out,
            device=arguments.device,
            until=None if ranks else arguments.until,
            jobs=arguments.jobs,
            quiet=arguments.quiet,
            rank=ranks,
            end=end,
            shard=None if arguments.shard is None else Shard(*arguments.shard),
            executor=executor,
        )


def _overrides(arguments: argparse.Namespace) -> list[str]:
    """The overrides of `run` and `plan`, of which `--quick` is the last."""
    return [*arguments.set, *(["quick=true"] if arguments.quick else [])]


def rank(arguments: argparse.Namespace) -> int:
    return run(arguments, ranks=True)


def plan(arguments: argparse.Namespace) -> int:
    from robustnas.recipe.executor import executor_of
    from robustnas.recipe.load import load

    loaded = load(arguments.recipe, _overrides(arguments))
    executor = executor_of(arguments.executor, "--executor")
    from robustnas import pipeline

    pipeline.plan(loaded, out=arguments.out, memory=arguments.memory, executor=executor, device=arguments.device)
    return 0


def table(arguments: argparse.Namespace) -> int:
    from robustnas.table import finished, forms, several
    from robustnas.table.chosen import chosen

    output: Path | None = arguments.output
    runs: list[Path] = arguments.runs
    whole = several.joined(*runs, force=arguments.force) if len(runs) > 1 else finished.rebuilt(runs[0])
    asked = chosen(whole, arguments.columns, arguments.sort)
    form = arguments.format or (forms.ENDINGS.get(output.suffix, "rich") if output else "rich")
    if form == "rich" and output is None:
        forms.show(asked)
    else:
        given(forms.FORMS[form](asked), output)
    finished.agree(whole)
    return 0


def report(arguments: argparse.Namespace) -> int:
    from robustnas.table import opened
    from robustnas.table.report import page

    runs = [opened.open(run) for run in arguments.runs]
    for path in page.write(runs, arguments.out, arguments.figures, force=arguments.force):
        tell(str(path))
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    from robustnas.recipe.load import written
    from robustnas.recipe.of_network import Evaluation, name_of, recipe

    asked = _filled(Evaluation, arguments)
    out: Path = arguments.out or Path("runs") / f"evaluate-{name_of(asked)}"
    with interrupt.listening(arguments.quiet):
        loaded = written(recipe(asked), out / "evaluate.yaml", "robustnas evaluate", arguments.set)
        interrupt.check()
        from robustnas import pipeline

        interrupt.check()
        return pipeline.run(loaded, out=out, device=arguments.device, quiet=arguments.quiet, keep=True)


def records(arguments: argparse.Namespace) -> int:
    from robustnas.table import finished

    return given(finished.records(arguments.directory), arguments.output)


def robustbench(arguments: argparse.Namespace) -> int:
    from robustnas.table import finished

    about = {key: getattr(arguments, key) for key in ("architecture", "link", "authors", "footnote", "additional_data")}
    found = finished.leaderboard(
        arguments.directory,
        arguments.method,
        name=arguments.title or arguments.method,
        venue=arguments.venue or "N/A",
        number_forward_passes=arguments.passes,
        **about,
    )
    return given(found, arguments.output)


def _filled(cls: type[Value], arguments: argparse.Namespace) -> Value:
    """An object of an attrs class whose fields are called as the arguments of a command are."""
    import attrs

    return cls(**{field.name: getattr(arguments, field.name) for field in attrs.fields(cls)})  # type: ignore[arg-type]


def export(arguments: argparse.Namespace) -> int:
    from robustnas.export import Request, export

    bundle = export(_filled(Request, arguments))
    images, certified = bundle.manifest["properties"]["images"], bundle.manifest["certificates"]["certified"]
    tell(f"{bundle.path}\n  {certified} of {images} images certified; README.txt says how to check them")
    return 0


def draw(arguments: argparse.Namespace) -> int:
    from robustnas.cli.draw import draw

    return draw(arguments)


def doctor(arguments: argparse.Namespace) -> int:
    from robustnas.cli.doctor import doctor

    return doctor(arguments)


def completion(arguments: argparse.Namespace) -> int:
    from robustnas.cli.completion import completion

    return completion(arguments)


def list_plugins(arguments: argparse.Namespace) -> int:
    """Every registered name with its package; with `--load` also whether it loads and its options can be read."""
    from robustnas.errors import PluginError
    from robustnas.options import options_of
    from robustnas.registry import REGISTRIES

    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for registry in REGISTRIES.values():
        registered = registry.entries()
        conflicts = registry.conflicts(registered)
        notes += [registry.describe_conflict(name, entries) for name, entries in conflicts.items()]
        faults: dict[str, str] = {}
        for name in dict.fromkeys(entry.name for entry in registered) if arguments.load else ():
            try:
                options_of(registry.load(name))
            except PluginError as fault:
                faults[name] = text_of(fault)
        notes += [fault for name, fault in faults.items() if name not in conflicts]
        for entry in registered:
            row = (registry.kind, entry.name, entry.provider, entry.target)
            rows.append((*row, "broken" if entry.name in faults else "ok") if arguments.load else row)
    heads = ("kind", "name", "package", "class")
    print_table((*heads, "loads") if arguments.load else heads, rows)
    for note in notes:
        tell(f"\n{note}")
    return 0


def show_plugin(arguments: argparse.Namespace) -> int:
    import inspect

    from robustnas.options import options_of
    from robustnas.registry import REGISTRIES

    registry = REGISTRIES[arguments.kind]
    cls = registry.load(arguments.name)
    entry = next(entry for entry in registry.entries() if entry.name == arguments.name)
    tell(f"{registry.kind} {entry.name}: {entry.target}, from {entry.provider}\n")
    if cls.__doc__:
        tell(f"{inspect.cleandoc(cls.__doc__)}\n")
    options = options_of(cls).values()
    if not options:
        tell("It has no options.")
        return 0
    rows = [(option.name, option.type_text, option.default_text, option.help) for option in options]
    print_table(("option", "type", "default", "help"), rows)
    return 0


def list_recipes(arguments: argparse.Namespace) -> int:
    from robustnas.recipe import shelf

    print_table(("recipe", "what it is"), [(name, shelf.description(name)) for name in shelf.names()])
    return 0


def show_recipe(arguments: argparse.Namespace) -> int:
    from robustnas.recipe import shelf

    write(shelf.read(arguments.name))
    return 0


def recipes_schema(arguments: argparse.Namespace) -> int:
    from robustnas.recipe.json_schema import recipe_schema
    from robustnas.runtime.printable import json_rows

    return given(f"{json_rows(recipe_schema())}\n", arguments.output)


def copy_recipe(arguments: argparse.Namespace) -> int:
    from robustnas.recipe import shelf

    name = f"{Path(arguments.name).name}.yaml"  # paper/table1 becomes table1.yaml
    path: Path = arguments.dest or Path(name)
    if path.is_dir():
        path = path / name
    # the commands it opens with would run the shipped recipe
    named = rf"(robustnas (?:run|plan)) {re.escape(arguments.name)}(?=\s)"
    text = re.sub(named, lambda found: f"{found[1]} {path}", shelf.read(arguments.name))
    # what a shipped recipe extends lies beside it, and not beside the copy, which knows it by name
    text = re.sub(r"^(extends: [\w-]+)\.yaml$", r"\1", text, flags=re.MULTILINE)
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{path} is there already; recipes copy overwrites nothing, another DEST would do") from None
    except FileNotFoundError:
        raise InputError(f"{path}: there is no folder {path.parent}; make it first") from None
    except OSError as fault:
        raise InputError(f"{path}: cannot be written: {fault.strerror}; another DEST would do") from None
    tell(f"{path}\n  robustnas run {path}")
    return 0
