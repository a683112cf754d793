"""The command `robustnas`: what may be typed, and the exit status it ends with.

    0 done    1 the run failed    2 something given is wrong    130 interrupted

Only what a command needs is imported when it runs, so that help and lists answer at once.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from robustnas import __version__, interrupt
from robustnas.errors import InputError, RecipeError, RobustnasError
from robustnas.suggest import did_you_mean

KINDS = ("search-space", "metric", "attack", "dataset")
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; a fault of the input is a message on stderr."""
    typed = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = _parse(typed)
    except SystemExit as done:  # argparse has printed help or what is wrong
        return done.code if isinstance(done.code, int) else 2
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        status = command(arguments)
        sys.stdout.flush()
        return status
    except RobustnasError as fault:
        # The faults of a recipe begin with their places in its file, as editors expect.
        if not (fault.shared and os.environ.get("RANK", "0") != "0"):  # what all processes raise, one says
            print(fault if isinstance(fault, RecipeError) else f"robustnas: {fault}", file=sys.stderr)
        return fault.exit_status
    except KeyboardInterrupt:
        hint = f"; to go on where it stopped: {_launcher()} {shlex.join(typed)}" if command in (_run, _evaluate) else ""
        print(f"robustnas: interrupted{hint}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has left.  Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as fault:  # a disk that became full or read-only where nothing more precise is known
        print(f"robustnas: {f'{fault.filename}: ' if fault.filename else ''}{fault.strerror or fault}", file=sys.stderr)
        return 1
    except Exception as fault:  # a plugin's own, before any stage could be blamed for it, or ours
        print(f"robustnas: {_unforeseen(fault)}", file=sys.stderr)
        return 1


def _unforeseen(fault: Exception) -> str:
    """What is said of an exception that nobody meant to raise; its traceback goes to a file."""
    import tempfile
    import traceback

    last = traceback.extract_tb(fault.__traceback__)[-1]
    with tempfile.NamedTemporaryFile("w", prefix="robustnas-", suffix=".txt", delete=False, encoding="utf-8") as kept:
        kept.write("".join(traceback.format_exception(fault)))
    return (
        f"{type(fault).__name__}: {fault} (at {last.filename}:{last.lineno}), a fault of the plugin or of robustnas in "
        f"which that line is; the traceback is in {kept.name}"
    )


def _launcher() -> str:
    """How this program was started, as far as it can be told."""
    size = os.environ.get("WORLD_SIZE", "1")
    return "robustnas" if size == "1" else f"torchrun --nproc-per-node {size} -m robustnas"


class _Parser(argparse.ArgumentParser):
    """argparse that suggests the command that was meant."""

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            hint = did_you_mean(str(value), known)
            raise argparse.ArgumentError(action, f"found {str(value)!r}; {', '.join(known)} would do{hint}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n  {self.prog} --help tells what may be typed\n")


def _parse(argv: list[str]) -> argparse.Namespace:
    """The arguments, with the function of their command as `command`.

    Raises:
        SystemExit: help was asked for (0), or something typed is wrong (2); printed either way.
    """
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    own: argparse.ArgumentParser = arguments.parser
    if unknown:
        known = [option for action in own._actions for option in action.option_strings]
        word = unknown[0].partition("=")[0]
        own.error(f"found {unknown[0]!r}, which it does not take{did_you_mean(word, known)}")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="robustnas",
        description="Search for robust neural architectures, attack and certify them, compare them.",
        epilog="To begin: robustnas run quickstart",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"robustnas {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def add(
        where: argparse._SubParsersAction[_Parser],
        name: str,
        help: str,
        command: Callable[[argparse.Namespace], int],
    ) -> argparse.ArgumentParser:
        added = where.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
        added.set_defaults(command=command, parser=added)
        return added

    def group(name: str, help: str) -> argparse._SubParsersAction[_Parser]:
        added = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
        return added.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    run = add(commands, "run", "run a recipe, or go on where a run of it stopped", _run)
    plan = add(commands, "plan", "show what a recipe would do and what of it is done, without doing it", _plan)
    for each in (run, plan):
        each.add_argument("recipe", metavar="RECIPE", help="a file, or the name of a shipped recipe")
        each.add_argument("--out", type=Path, metavar="DIR", help="run directory (default: runs/NAME of the recipe)")
        each.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override a key of the recipe, such as search.epochs=5; VALUE is YAML; may be given again",
        )
    run.add_argument("--device", type=_device, default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    run.add_argument("--until", choices=("search", "train"), help="stop after this stage")
    run.add_argument(
        "--jobs",
        type=_count,
        default=1,
        metavar="N",
        help="stages to run side by side, with --device auto or cuda on all CUDA devices in turn (default: 1)",
    )
    run.add_argument("--quiet", action="store_true", help="print nothing but faults; the table is in DIR")
    plan.add_argument(
        "--memory",
        action="store_true",
        help="estimate the memory of a search step: seconds a method, a minute or two for a large supernet",
    )
    table = add(commands, "table", "rebuild and print the table of a run directory", _table)
    table.add_argument("directory", type=Path, metavar="DIR", help="a run directory")

    _add_evaluate(add(commands, "evaluate", "attack and certify a network made elsewhere", _evaluate))
    records = add(commands, "records", "what each attack did to each image of a run, as CSV", _records)
    records.add_argument("directory", type=Path, metavar="DIR", help="a run directory")
    records.add_argument("--output", type=Path, metavar="FILE", help="a new file (default: print)")
    _add_robustbench(add(commands, "robustbench", "write a result in the form of RobustBench's files", _robustbench))

    _add_export(add(commands, "export", "write a trained network with its certificates as ONNX and VNN-LIB", _export))

    plugins = group("plugins", "list the installed plugins, or show one with its options")
    listing = add(plugins, "list", "list the installed plugins, without importing any", _list_plugins)
    listing.add_argument("--load", action="store_true", help="import each and say which fail")
    show = add(plugins, "show", "show a plugin: where it comes from and its options", _show_plugin)
    show.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    show.add_argument("name", metavar="NAME", help="a name that plugins list shows")

    recipes = group("recipes", "list, show or copy the recipes that ship with robustnas")
    add(recipes, "list", "list the shipped recipes", _list_recipes)
    show = add(recipes, "show", "print a shipped recipe", _show_recipe)
    copy = add(recipes, "copy", "copy a shipped recipe to a file of your own; nothing is overwritten", _copy_recipe)
    for each in (show, copy):
        each.add_argument("name", metavar="NAME", help="a name that recipes list shows")
    copy.add_argument("dest", nargs="?", type=Path, metavar="DEST", help="file or folder (default: ./NAME.yaml)")
    return parser


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate`."""
    parser.add_argument("--network", required=True, metavar="MODULE:FACTORY", help="what makes the network")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="its state dict (default: as the factory makes it)"
    )
    parser.add_argument("--dataset", required=True, metavar="YAML", help="a dataset: digits, or {name: cifar10, ...}")
    parser.add_argument("--name", metavar="NAME", help="of its row in the table (default: the factory's)")
    parser.add_argument("--normalize", action="store_true", help="put the dataset's mean and deviation in front of it")
    parser.add_argument("--norm", default="linf", metavar="NORM", help="linf, l2 or l1 (default: linf)")
    parser.add_argument("--epsilon", metavar="E", help="radius in pixel units (default: linf 8/255, l2 0.5, l1 12)")
    parser.add_argument(
        "--attack",
        action="append",
        default=[],
        metavar="YAML",
        help="an attack: fgsm, or '{name: pgd, steps: 20, step_size: 2/255}'; may be given again "
        "(default: fgsm, pgd of 20 steps, autoattack)",
    )
    parser.add_argument("--images", type=_count, metavar="N", help="test images, of equal classes (default: all)")
    parser.add_argument("--certify", metavar="METHOD", help="certify too, by ibp, crown-ibp, crown or alpha-crown")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of random draws (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="run directory (default: runs/evaluate-NAME)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other key of a recipe")
    parser.add_argument("--device", type=_device, default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument("--quiet", action="store_true", help="print nothing but faults; the table is in DIR")


def _add_robustbench(parser: argparse.ArgumentParser) -> None:
    """The arguments of `robustbench`."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run directory")
    parser.add_argument("method", metavar="METHOD", help="a method of its table")
    parser.add_argument("--title", metavar="TEXT", help="of the paper (default: the method)")
    parser.add_argument("--architecture", required=True, metavar="TEXT", help="of the network, in words")
    for name in ("link", "authors", "venue", "footnote"):
        parser.add_argument(f"--{name}", default="", metavar="TEXT", help="as RobustBench has it")
    parser.add_argument("--additional-data", action="store_true", help="it was trained on more than the dataset")
    parser.add_argument(
        "--passes", type=_count, default=1, metavar="N", help="forward passes an answer takes (default: 1)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="a new file (default: print)")


def _add_export(parser: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("method", metavar="METHOD", help="a method of its recipe")
    parser.add_argument("--seed", type=int, metavar="N", help="a seed of its recipe (default: the first)")
    parser.add_argument("--images", type=_count, metavar="N", help="the first of the evaluated images (default: 20)")
    parser.add_argument("--norm", metavar="NORM", help="norm of the threat (default: the recipe's threat)")
    parser.add_argument("--epsilon", type=_epsilon, metavar="E", help="radius in pixel units, such as 8/255")
    parser.add_argument("--vnnlib", choices=("1", "2", "both"), default="both", help="version (default: both)")
    parser.add_argument("--enclosing-box", action="store_true", help="for another norm than linf: the box round it")
    parser.add_argument("--timeout", type=_count, metavar="S", help="seconds an image in instances.csv (default: 300)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new folder (default: in RUN/export)")


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"found {text!r}; auto, cpu, cuda, cuda:N or mps would do")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; a whole number from 1 would do")
    return int(text)


def _epsilon(text: str) -> float:
    from robustnas.threat import pixels

    try:
        return pixels(text)
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from None


def _run(arguments: argparse.Namespace) -> int:
    with interrupt.listening(arguments.quiet):  # a Ctrl-C that raises inside an import may be swallowed there
        from robustnas.recipe.load import load

        loaded = load(arguments.recipe, arguments.set)
        interrupt.check()
        from robustnas import pipeline  # imports torch, which a recipe with faults need not wait for

        interrupt.check()
        return pipeline.run(
            loaded,
            out=arguments.out,
            device=arguments.device,
            until=arguments.until,
            jobs=arguments.jobs,
            quiet=arguments.quiet,
        )


def _plan(arguments: argparse.Namespace) -> int:
    from robustnas.recipe.load import load

    loaded = load(arguments.recipe, arguments.set)
    from robustnas import pipeline

    pipeline.plan(loaded, out=arguments.out, memory=arguments.memory)
    return 0


def _table(arguments: argparse.Namespace) -> int:
    from robustnas import pipeline

    pipeline.show_table(arguments.directory)
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from robustnas.recipe.load import written
    from robustnas.recipe.of_network import Asked, name_of, recipe

    asked = Asked(
        network=arguments.network,
        weights=arguments.weights,
        dataset=arguments.dataset,
        name=arguments.name,
        normalize=arguments.normalize,
        norm=arguments.norm,
        epsilon=arguments.epsilon,
        attacks=arguments.attack,
        images=arguments.images,
        certify=arguments.certify,
        seed=arguments.seed,
    )
    out: Path = arguments.out or Path("runs") / f"evaluate-{name_of(asked)}"
    with interrupt.listening(arguments.quiet):
        loaded = written(recipe(asked), out / "evaluate.yaml", "robustnas evaluate", arguments.set)
        interrupt.check()
        from robustnas import pipeline

        interrupt.check()
        return pipeline.run(loaded, out=out, device=arguments.device, quiet=arguments.quiet, keep=True)


def _records(arguments: argparse.Namespace) -> int:
    from robustnas import pipeline

    return _given(pipeline.records(arguments.directory), arguments.output)


def _robustbench(arguments: argparse.Namespace) -> int:
    from robustnas import pipeline

    found = pipeline.leaderboard(
        arguments.directory,
        arguments.method,
        name=arguments.title or arguments.method,
        architecture=arguments.architecture,
        link=arguments.link,
        authors=arguments.authors,
        venue=arguments.venue or "N/A",
        footnote=arguments.footnote,
        number_forward_passes=arguments.passes,
        additional_data=arguments.additional_data,
    )
    return _given(found, arguments.output)


def _given(text: str, path: Path | None) -> int:
    """Print a text, or write it to a file that is not there yet."""
    if path is None:
        sys.stdout.write(text)
        return 0
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{path} is there already, and nothing is overwritten; another --output would do") from None
    except OSError as fault:
        raise InputError(f"{path}: cannot be written: {fault.strerror}; another --output would do") from None
    print(path)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from robustnas.export import TIMEOUT, Request, export

    versions = {"1": ("1.0",), "2": ("2.0",), "both": ("1.0", "2.0")}[arguments.vnnlib]
    bundle = export(
        Request(
            run=arguments.run,
            method=arguments.method,
            seed=arguments.seed,
            images=arguments.images,
            norm=arguments.norm,
            epsilon=arguments.epsilon,
            versions=versions,
            enclosing_box=arguments.enclosing_box,
            timeout=arguments.timeout or TIMEOUT,
            output=arguments.output,
        )
    )
    images, certified = bundle.manifest["properties"]["images"], bundle.manifest["certificates"]["certified"]
    print(f"{bundle.path}\n  {certified} of {images} images certified; README.txt says how to check them")
    return 0


def _list_plugins(arguments: argparse.Namespace) -> int:
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
                faults[name] = str(fault)
        notes += [fault for name, fault in faults.items() if name not in conflicts]
        for entry in registered:
            row = (registry.kind, entry.name, entry.provider, entry.target)
            rows.append((*row, "broken" if entry.name in faults else "ok") if arguments.load else row)
    heads = ("kind", "name", "package", "class")
    _print_table((*heads, "loads") if arguments.load else heads, rows)
    for note in notes:
        print(f"\n{note}")
    return 0


def _show_plugin(arguments: argparse.Namespace) -> int:
    import inspect

    from robustnas.options import options_of
    from robustnas.registry import REGISTRIES

    registry = REGISTRIES[arguments.kind]
    cls = registry.load(arguments.name)
    entry = next(entry for entry in registry.entries() if entry.name == arguments.name)
    print(f"{registry.kind} {entry.name}: {entry.target}, from {entry.provider}\n")
    if cls.__doc__:
        print(f"{inspect.cleandoc(cls.__doc__)}\n")
    options = options_of(cls).values()
    if not options:
        print("It has no options.")
        return 0
    rows = [(option.name, option.type_text, option.default_text, option.help) for option in options]
    _print_table(("option", "type", "default", "help"), rows)
    return 0


def _list_recipes(arguments: argparse.Namespace) -> int:
    from robustnas.recipe import shelf

    _print_table(("recipe", "what it is"), [(name, shelf.description(name)) for name in shelf.names()])
    return 0


def _show_recipe(arguments: argparse.Namespace) -> int:
    from robustnas.recipe import shelf

    sys.stdout.write(shelf.read(arguments.name))
    return 0


def _copy_recipe(arguments: argparse.Namespace) -> int:
    from robustnas.recipe import shelf

    text = shelf.read(arguments.name)
    path: Path = arguments.dest or Path(f"{arguments.name}.yaml")
    if path.is_dir():
        path = path / f"{arguments.name}.yaml"
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{path} is there already; recipes copy overwrites nothing, another DEST would do") from None
    except FileNotFoundError:
        raise InputError(f"{path}: there is no folder {path.parent}; make it first") from None
    except OSError as fault:
        raise InputError(f"{path}: cannot be written: {fault.strerror}; another DEST would do") from None
    print(f"{path}\n  robustnas run {path}")
    return 0


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: framed by rich in a terminal, else aligned plain text in which nothing is cut."""
    if sys.stdout.isatty():
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        framed = Table(*heads, box=SIMPLE_HEAD)
        for column in framed.columns:
            column.overflow = "fold"
        for row in rows:
            framed.add_row(*(Text(cell) for cell in row))
        Console().print(framed)
        return
    widths = [max(len(row[index]) for row in (heads, *rows)) for index in range(len(heads))]
    for row in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
