"""The command `robustnas completion`: a script that lets a shell complete commands, options, choices and recipes.

It is made from the parser of the command line, so it is of this version; it starts no Python when a key is pressed.
Where the script has no words the shell completes files.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from attrs import frozen

from robustnas.recipe import shelf
from robustnas.runtime.terminal import write


@frozen
class Option:
    """An option of a command.

    Args:
        flag: with its dashes.
        takes: whether a value follows.
        values: what may follow; empty: anything.
        help: what it is.
    """

    flag: str
    takes: bool
    values: list[str]
    help: str


@frozen
class Command:
    """What may stand after some words.

    Args:
        words: such as `recipes show`; empty at the beginning.
        further: further words, or values of the arguments, with what each is.
        options: of the command.
    """

    words: str
    further: dict[str, str]
    options: list[Option]


def completion(arguments: argparse.Namespace) -> int:
    commands = list(_commands(arguments.root, ""))
    write(_fish(commands) if arguments.shell == "fish" else _bash_or_zsh(commands, arguments.shell))
    return 0


def _commands(parser: argparse.ArgumentParser, words: str) -> Iterator[Command]:
    """The command that a parser reads, and those below it."""
    further: dict[str, str] = {}
    options, below = list[Option](), dict[str, argparse.ArgumentParser]()
    for action in parser._actions:
        values = [str(choice) for choice in action.choices or ()]
        if isinstance(action, argparse._SubParsersAction):
            below = dict(action.choices)
            further |= {choice.dest: choice.help or "" for choice in action._choices_actions}
        elif action.option_strings:
            flag = max(action.option_strings, key=len)
            options.append(Option(flag, action.nargs != 0, values, _plain(action.help)))
        else:
            further |= dict.fromkeys(values, "")
            if action.metavar == "RECIPE" or (action.metavar == "NAME" and words.startswith("recipes")):
                further |= {name: shelf.description(name) for name in shelf.names()}
    yield Command(words, further, options)
    for name, inner in below.items():
        yield from _commands(inner, f"{words} {name}".strip())


def _plain(help: str | None) -> str:
    return (help or "").replace("%%", "%")


def _bash_or_zsh(commands: list[Command], shell: str) -> str:
    """A function of `case`s, whose syntax both have; only how it asks and answers differs."""
    below = [f'"{one.words.rpartition(" ")[0]}:{one.words.rpartition(" ")[2]}"' for one in commands if one.words]
    after = {f"{one.words}:{option.flag}": option.values for one in commands for option in one.options if option.takes}
    lines = [
        "_robustnas() {",
        *ASK[shell],
        '  local command="" answer="" word',
        '  for word in "${before[@]}"; do',
        f'    case "$command:$word" in {"|".join(below)}) command="${{command:+$command }}$word";; esac',
        "  done",
        '  case "$command:$last" in',
        *_cases(after),
        '    *) case "$now" in',
        '    -*) case "$command" in',
        *_cases({one.words: [option.flag for option in one.options] for one in commands}),
        "    esac;;",
        '    *) case "$command" in',
        *_cases({one.words: list(one.further) for one in commands}),
        "    esac;;",
        "    esac;;",
        "  esac",
        *ANSWER[shell],
    ]
    return "\n".join(lines) + "\n"


def _cases(answers: dict[str, list[str]]) -> list[str]:
    """A line of a `case` for each answer, with all that it answers."""
    asked: dict[str, list[str]] = {}
    for words, answer in answers.items():
        asked.setdefault(" ".join(answer), []).append(f'"{words}"')
    return [f'    {"|".join(words)}) answer="{answer}";;' for answer, words in asked.items()]


ASK = {
    "bash": [
        '  local now="${COMP_WORDS[COMP_CWORD]}" last="${COMP_WORDS[COMP_CWORD-1]}"',
        '  local -a before=("${COMP_WORDS[@]:1:COMP_CWORD-1}")',
        '  [[ $last == "=" ]] && last="${COMP_WORDS[COMP_CWORD-2]}"',
        '  [[ $now == "=" ]] && now=""',
    ],
    "zsh": [
        '  local now="$words[CURRENT]" last="$words[CURRENT-1]"',
        '  local -a before; before=("${(@)words[2,CURRENT-1]}")',
        '  [[ $now == --*=* ]] && { last="${now%%=*}"; compset -P "*="; now="" }',
    ],
}

ANSWER = {
    "bash": ['  COMPREPLY=($(compgen -W "$answer" -- "$now"))', "}", "complete -o default -F _robustnas robustnas"],
    "zsh": [
        "  [[ -n $answer ]] && compadd -- ${=answer}",
        "  [[ $now == -* ]] || _files",
        "}",
        "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }",
        "compdef _robustnas robustnas",
    ],
}


def _fish(commands: list[Command]) -> str:
    groups = {one.words.rpartition(" ")[0] for one in commands if one.words}
    deeper = [
        _quoted(f"{one.words.rpartition(' ')[0]} {one.words.rpartition(' ')[2]}") for one in commands if one.words
    ]
    lines = [
        "function __robustnas_at",
        "    set -l command",
        "    for word in (commandline -opc)[2..-1]",
        '        switch "$command $word"',
        f"            case {' '.join(deeper)}",
        '                set command (string trim "$command $word")',
        "        end",
        "    end",
        '    test "$command" = "$argv"',
        "end",
    ]
    for one in commands:
        at = f"complete -c robustnas -n {_quoted(f'__robustnas_at {one.words}'.strip())}"
        lines += [f"{at} -f"] if one.words in groups else []
        lines += [f"{at} -a {_quoted(word)} -d {_quoted(help)}" for word, help in one.further.items()]
        for option in one.options:
            values = f" -x -a {_quoted(' '.join(option.values))}" if option.values else " -r" if option.takes else ""
            lines.append(f"{at} -l {option.flag[2:]}{values} -d {_quoted(option.help)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A text in single quotes as fish reads it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
