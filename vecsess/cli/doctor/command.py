"""`vecsess doctor [--env ID]`: says whether this machine, and an environment, are fit."""

from __future__ import annotations

import argparse
import dataclasses
import json

from rich.console import Console

from vecsess.cli.doctor.costs import measure_costs
from vecsess.cli.doctor.env_report import CALL_S, examine_env
from vecsess.cli.doctor.findings import FAIL, OK, WARN, Finding, findings_table
from vecsess.cli.doctor.machine import examine_machine
from vecsess.cli.figures import plural, seconds
from vecsess.cli.session_options import (
    add_making_options,
    positive,
    positive_seconds,
    require_module,
)

UNFIT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add = parser.add_argument
    add("--env", metavar="ID", help="also examine this environment; also module:ID")
    add("-n", type=positive, default=16, metavar="N", help="environments to recommend for (16)")
    add("--json", action="store_true", help="print what was found as JSON")
    add(
        "--call-timeout",
        type=positive_seconds,
        default=CALL_S,
        metavar="SECONDS",
        help=f"how long one call of the environment may take here ({CALL_S:.0f})",
    )
    add_making_options(parser)


def run(options: argparse.Namespace) -> int:
    """Examines; returns 1 where something is a problem."""
    console = Console(highlight=False, quiet=options.json)
    console.print("[bold]machine[/bold]")
    findings = {"machine": [*examine_machine(), _costs()]}
    console.print(findings_table(findings["machine"]))
    if options.env is not None:
        for module in options.preload:
            require_module(module)
        console.print(f"\n[bold]{options.env}[/bold]")
        with console.status("running the environment for some seconds"):
            kwargs, preload = options.make_kwargs, options.preload
            found = examine_env(options.env, kwargs, preload, options.n, options.call_timeout)
        console.print(findings_table(found))
        findings["env"] = found
    everything = [finding for part in findings.values() for finding in part]
    fit = all(finding.level != FAIL for finding in everything)
    console.print(_verdict(everything), style="bold")
    if options.json:
        parts = {name: list(map(dataclasses.asdict, part)) for name, part in findings.items()}
        print(json.dumps({"fit": fit, **parts}, indent=2))
    return 0 if fit else UNFIT


def _costs() -> Finding:
    costs = measure_costs()
    return Finding(
        OK,
        "costs",
        f"round trip to a sleeping process {seconds(costs.round_trip_s)}, of which "
        f"{seconds(costs.wake_up_s)} a wake-up, {seconds(costs.pipe_s)} a pipe's write and read",
    )


def _verdict(findings: list[Finding]) -> str:
    problems = sum(finding.level == FAIL for finding in findings)
    warnings = sum(finding.level == WARN for finding in findings)
    if problems:
        return f"\nnot fit: {plural(problems, 'problem')}, {plural(warnings, 'warning')}"
    return f"\nfit, with {plural(warnings, 'warning')}" if warnings else "\nfit"
