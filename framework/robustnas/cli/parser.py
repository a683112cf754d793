"""What may be typed after `robustnas`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

from robustnas import __version__
from robustnas.cli import at_work, authors, commands, genotypes, new_plugin
from robustnas.registry import REGISTRIES
from robustnas.runtime.quoted import quoted
from robustnas.runtime.suggest import did_you_mean

FORMS = ("rich", "markdown", "latex", "csv", "json", "html")

SHELLS = ("bash", "zsh", "fish")

KINDS = tuple(REGISTRIES)


class _Parser(argparse.ArgumentParser):
    """argparse that suggests the command that was meant."""

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            hint = did_you_mean(str(value), known)
            raise argparse.ArgumentError(action, f"found {quoted(str(value))}; {', '.join(known)} would do{hint}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n  {self.prog} --help tells what may be typed\n")


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments, with the function of their command as `command`.

    Raises:
        SystemExit: help was asked for (0), or something typed is wrong (2); printed either way.
    """
    parser = _parser()
    for word in argv:
        if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
            parser.error(f"found {quoted(word)}, which is no text in the terminal's encoding")
    arguments, unknown = parser.parse_known_args(argv)
    own: argparse.ArgumentParser = arguments.parser
    if unknown:
        known = [option for action in own._actions for option in action.option_strings]
        word = unknown[0].partition("=")[0]
        own.error(f"found {quoted(unknown[0])}, which it does not take{did_you_mean(word, known)}")
    return arguments


@cache
def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="robustnas",
        description="Search for robust neural architectures, attack and certify them, compare them.",
        epilog="To begin: robustnas run quickstart",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"robustnas {__version__}")
    every = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

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
        added = every.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
        return added.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    run = add(every, "run", "run a recipe, or go on where a run of it stopped", commands.run)
    plan = add(every, "plan", "show what a recipe would do and what of it is done, without doing it", commands.plan)
    rank = add(every, "rank", "run a recipe, and rank metrics by what they foretell of its networks", commands.rank)
    for each in (run, plan, rank):
        each.add_argument("recipe", metavar="RECIPE", help="a file, or the name of a shipped recipe")
        _add_place(each, "runs/NAME of the recipe")
        _add_set(each, "override a key of the recipe, such as search.epochs=5; VALUE is YAML; may be given again")
        _add_plugin(each)
        each.add_argument(
            "--quick", action="store_true", help="a few steps of everything, to see it run: the figures mean nothing"
        )
    run.add_argument("--until", choices=("search", "train"), help="stop after this stage")
    for each in (run, rank):
        each.add_argument(
            "--shard",
            type=_shard,
            metavar="I/N",
            help="do the I-th of N parts alone, 1/8 to 8/8: one command each, on any machines that see DIR",
        )
        _add_running(each)
        each.add_argument(
            "--jobs",
            type=_jobs,
            default=1,
            metavar="N",
            help="stages to run side by side, with --device auto or cuda on all CUDA devices in turn (default: 1)",
        )
        each.add_argument(
            "--budget",
            type=_seconds,
            metavar="TIME",
            help="stop at a checkpoint when this time is over, 30m, 2h or 1h30m, with the table of what is done "
            "(status 3; the same command goes on)",
        )
    for each in (run, plan, rank):
        each.add_argument(
            "--executor",
            metavar="YAML",
            help="who does the stages: local, slurm or ray, or with options {name: slurm, partition: gpu} "
            "(default: local)",
        )
    _add_device(plan)
    plan.add_argument(
        "--memory",
        action="store_true",
        help="estimate the memory of a search step: seconds a method, a minute or two for a large supernet",
    )
    status = add(every, "status", "tell what of a run is done, running and where, waiting, or failed", at_work.status)
    logs = add(every, "logs", "print what a stage of a run told, and why it failed", at_work.logs)
    cancel = add(every, "cancel", "ask everybody at work on a run to stop at the next checkpoint", at_work.cancel)
    for each in (status, logs, cancel):
        each.add_argument("run", type=Path, metavar="RUN", help="a run directory, on any machine that sees it")
    status.add_argument(
        "--check", action="store_true", help="watch for half a minute whether processes of other machines are alive"
    )
    logs.add_argument("method", metavar="METHOD", help="a method of its recipe")
    logs.add_argument("seed", metavar="SEED", help="a seed of its recipe, 0 or 0.2")
    logs.add_argument("stage", metavar="STAGE", help="search, train, clean, certify, ... or the label of an attack")

    _add_table(add(every, "table", "print the table of a run directory, rebuilt, or one of several", commands.table))

    report = add(every, "report", "write a page with the table, charts, cells and examples of runs", commands.report)
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run directory, finished or not")
    report.add_argument("--out", type=Path, metavar="FOLDER", help="where report.html goes (default: RUN/report)")
    report.add_argument("--force", action="store_true", help="also of runs that differ in data, threat or images")
    report.add_argument("--figures", choices=("pdf", "png"), help="also write each chart as a file, with matplotlib")

    _add_evaluate(add(every, "evaluate", "attack and certify a network made elsewhere", commands.evaluate))
    records = add(every, "records", "what each attack did to each image of a run, as CSV", commands.records)
    records.add_argument("directory", type=Path, metavar="DIR", help="a run directory")
    records.add_argument("--output", type=Path, metavar="FILE", help="a new file (default: print)")
    _add_robustbench(
        add(every, "robustbench", "write a result in the form of RobustBench's files", commands.robustbench)
    )

    _add_export(
        add(every, "export", "write a trained network with its certificates as ONNX and VNN-LIB", commands.export)
    )

    drawn = add(every, "draw", "draw the cells of a genotype, or of a run's", commands.draw)
    drawn.add_argument(
        "source", metavar="GENOTYPE|RUN", help="a file, the name of a published genotype, or a run directory"
    )
    drawn.add_argument("--method", metavar="NAME", help="of the run (default: all)")
    drawn.add_argument("--seed", metavar="N", help="of the run's searches (default: all)")
    drawn.add_argument("--output", type=Path, metavar="FILE.svg", help="a new file (default: the terminal)")

    add(every, "doctor", "tell whether runs will work here, and what to do where not", commands.doctor)

    plugins = group("plugins", "list, show or check the installed plugins, or begin one of your own")
    listing = add(plugins, "list", "list the installed plugins, without importing any", commands.list_plugins)
    listing.add_argument("--load", action="store_true", help="import each and say which fail")
    show = add(plugins, "show", "show a plugin: where it comes from and its options", commands.show_plugin)
    check = add(plugins, "check", "hold a plugin to its contract, and list every promise it breaks", authors.check)
    new = add(plugins, "new", "write a package with a plugin of your own, its tests and a recipe", new_plugin.new)
    for each in (show, check, new):
        each.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    for each in (show, check):
        each.add_argument("name", metavar="NAME", help="a name that plugins list shows")
    new.add_argument("name", metavar="NAME", help="of the plugin, such as my-metric")
    new.add_argument("--output", type=Path, metavar="FOLDER", help="a new folder (default: ./robustnas-NAME)")
    _add_plugin(check)
    _add_set(check, "an option of the plugin, such as steps=5; VALUE is YAML; may be given again")
    check.add_argument(
        "--kit",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what it is checked with, such as norms=[linf]: the options of its check in robustnas.testing",
    )

    cells = group("genotypes", "list or show the cells of the literature that search spaces know by name")
    add(cells, "list", "list them with their size and paper", genotypes.list_genotypes)
    show = add(cells, "show", "show one: where it comes from, its size and its drawing", genotypes.show_genotype)
    show.add_argument("name", metavar="NAME", help="a name that genotypes list shows")

    recipes = group("recipes", "list, show or copy the recipes that ship with robustnas")
    add(recipes, "list", "list the shipped recipes", commands.list_recipes)
    show = add(recipes, "show", "print a shipped recipe", commands.show_recipe)
    copy = add(
        recipes, "copy", "copy a shipped recipe to a file of your own; nothing is overwritten", commands.copy_recipe
    )
    for each in (show, copy):
        each.add_argument("name", metavar="NAME", help="a name that recipes list shows")
    schema = add(
        recipes, "schema", "write the JSON Schema of recipes with the plugins installed here", commands.recipes_schema
    )
    schema.add_argument("--output", type=Path, metavar="FILE", help="a new file (default: print)")
    copy.add_argument("dest", nargs="?", type=Path, metavar="DEST", help="file or folder (default: ./NAME.yaml)")
    complete = add(
        every, "completion", "print a script that completes commands and options in a shell", commands.completion
    )
    complete.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    complete.set_defaults(root=parser)
    return parser


def _add_place(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"run directory (default: {default})")


def _add_set(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=help)


def _add_plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE.py:CLASS",
        help="a plugin of your own that is not installed; the file is run; its name is the class's (my-metric) "
        "or that of NAME=FILE.py:CLASS; may be given again",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", type=_device, default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")


def _add_running(parser: argparse.ArgumentParser) -> None:
    """Add how a run is done: where it computes, and what it prints."""
    _add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="print nothing but faults; the table is in DIR")


def _add_table(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `table`."""
    several = "a run directory; of several one table is made, where their figures can be compared"
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=several)
    parser.add_argument("--force", action="store_true", help="several runs also where they cannot")
    forms = f"{', '.join(FORMS)} (default: as FILE ends, else rich; latex needs booktabs)"
    parser.add_argument("--format", choices=FORMS, metavar="FORM", help=forms)
    parser.add_argument("--columns", metavar="A,B,...", help="columns to show: clean, robust, ... (default: all)")
    parser.add_argument(
        "--sort", metavar="COLUMN", help="sort rows by a column, the best first (default: the recipe's)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="a new file (default: print)")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate`."""
    parser.add_argument("--network", required=True, metavar="MODULE:FACTORY", help="what makes the network")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="its state dict (default: as the factory makes it)"
    )
    parser.add_argument("--weights-key", metavar="KEY", help="where in FILE it is, such as ema (default: what fits)")
    parser.add_argument(
        "--weights-prefix", metavar="TEXT", help="what stands before its names, such as net. (default: what fits)"
    )
    parser.add_argument("--dataset", required=True, metavar="YAML", help="a dataset: digits, or {name: cifar10, ...}")
    parser.add_argument("--name", metavar="NAME", help="of its row in the table (default: the factory's)")
    parser.add_argument("--normalize", action="store_true", help="put the dataset's mean and deviation in front of it")
    parser.add_argument("--norm", default="linf", metavar="NORM", help="linf, l2 or l1 (default: linf)")
    parser.add_argument("--epsilon", metavar="E", help="radius in pixel units (default: linf 8/255, l2 0.5, l1 12)")
    parser.add_argument(
        "--attack",
        action="append",
        dest="attacks",
        default=[],
        metavar="YAML",
        help="an attack: fgsm, or '{name: pgd, steps: 20, step_size: 2/255}'; may be given again "
        "(default: fgsm, pgd of 20 steps, autoattack)",
    )
    parser.add_argument("--images", type=_count, metavar="N", help="test images, of equal classes (default: all)")
    parser.add_argument("--certify", metavar="METHOD", help="certify too, by ibp, crown-ibp, crown, alpha-crown or bab")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of random draws (default: 0)")
    _add_place(parser, "runs/evaluate-NAME")
    _add_set(parser, "any other key of a recipe")
    _add_plugin(parser)
    _add_running(parser)


def _add_robustbench(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `robustbench`."""
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
    """Add the arguments of `export`."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("method", metavar="METHOD", help="a method of its recipe")
    parser.add_argument("--seed", metavar="N", help="a seed of its recipe, 0 or 0.2 (default: the first)")
    parser.add_argument("--images", type=_count, metavar="N", help="the first of the evaluated images (default: 20)")
    parser.add_argument("--norm", metavar="NORM", help="norm of the threat (default: the recipe's threat)")
    parser.add_argument("--epsilon", type=_epsilon, metavar="E", help="radius in pixel units, such as 8/255")
    parser.add_argument("--vnnlib", choices=("1", "2", "both"), default="both", help="version (default: both)")
    parser.add_argument("--enclosing-box", action="store_true", help="for another norm than linf: the box round it")
    parser.add_argument("--timeout", type=_count, metavar="S", help="seconds an image in instances.csv (default: 300)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new folder (default: in RUN/export)")


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"found {quoted(text)}; auto, cpu, cuda, cuda:N or mps would do")
    return text


def _count(text: str) -> int:
    return _whole(text, 1, 10**9)


def _jobs(text: str) -> int:
    return _whole(text, 1, 1000)


def _seed(text: str) -> int:
    return _whole(text, 0, 2**63 - 1)


def _whole(text: str, least: int, most: int) -> int:
    number = int(text) if re.fullmatch("[0-9]{1,19}", text) else -1
    if number > most or re.fullmatch("[0-9]{20,}", text):
        raise argparse.ArgumentTypeError(f"found {quoted(text)}; at most {most} would do")
    if number < least:
        raise argparse.ArgumentTypeError(f"found {quoted(text)}; a whole number from {least} would do")
    return number


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
    number, of = (int(part) for part in found.groups()) if found else (0, 0)
    if not 1 <= number <= of:
        raise argparse.ArgumentTypeError(f"found {quoted(text)}; I/N with I from 1 to N would do, such as 3/8")
    return number, of


def _seconds(text: str) -> int:
    found = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", text, re.ASCII)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if not hours + minutes + seconds:
        raise argparse.ArgumentTypeError(f"found {quoted(text)}; a time such as 45s, 90m, 2h or 1h30m would do")
    return 3600 * hours + 60 * minutes + seconds


def _epsilon(text: str) -> float:
    from robustnas.threat import pixels

    try:
        return pixels(text)
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from None
