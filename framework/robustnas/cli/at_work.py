"""What `status`, `logs` and `cancel` do, from any machine that sees a run directory."""

from __future__ import annotations

import argparse
from collections import Counter

from robustnas.cli.output import print_table
from robustnas.runtime.terminal import tell

SHOWN = 30
"""Lines of stages that a list shows at most."""


def status(arguments: argparse.Namespace) -> int:
    """Print how a run stands; 1 where stages failed that nobody is at."""
    from robustnas.run.status import status as found
    from robustnas.table.finished import opened

    now = found(opened(arguments.run), check=arguments.check)
    counts = now.counts
    parts = [f"{counts[state]} {state}" for state in ("running", "failed", "waiting") if counts[state]]
    tell(f"{counts['done']} of {len(now.stages)} stages done{''.join(f', {part}' for part in parts)}")
    for peer, living in now.peers:
        doing = ", ".join(one.get("stage", "") for one in peer.doing) or "no stage yet"
        left = f", {peer.left}" if peer.left else ""
        gone = "; it has ended without a word" if living is False else ""
        unknown = "; --check tells whether it shows signs of life" if living is None and not arguments.check else ""
        tell(f"at work: {peer.words}: {doing}{left}{gone}{unknown}")
    if running := now.of("running"):
        tell("")
        rows = [(one.title, one.who.words if one.who else "", one.place) for one in running[:SHOWN]]
        print_table(("running", "where", "progress"), rows)
    if failed := now.of("failed"):
        tell("")
        print_table(("failed", "why"), [(one.title, one.why) for one in failed[:SHOWN]])
        first = failed[0]
        tell(f"robustnas logs {arguments.run} {first.method} {first.seed} '{first.what}' tells more")
    if waiting := now.of("waiting"):
        kinds = Counter(one.where.partition("/")[0] for one in waiting)
        tell(f"\nwaiting: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}")
    return 1 if failed else 0


def logs(arguments: argparse.Namespace) -> int:
    from robustnas.run.status import log
    from robustnas.table.finished import opened

    for text in log(opened(arguments.run), arguments.method, arguments.seed, arguments.stage):
        tell(text)
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    from robustnas.registry import EXECUTORS
    from robustnas.run.status import cancel as asked
    from robustnas.run.status import submitted
    from robustnas.table.finished import opened

    directory = opened(arguments.run)
    peers, jobs = asked(directory), submitted(directory)
    for peer in peers:
        tell(f"asked to stop at its next checkpoint: {peer.words}")
    for name in dict.fromkeys(one.executor for one in jobs):
        names = [job for one in jobs if one.executor == name for job in one.jobs.values()]
        executor = EXECUTORS.load(name)()
        if hasattr(executor, "cancel"):
            executor.cancel(names)
            tell(f"asked {name} to end {len(names)} jobs, those that wait at once")
    if not peers and not jobs:
        tell("nobody is at work there")
    return 0
