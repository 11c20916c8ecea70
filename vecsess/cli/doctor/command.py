"""`vecsess doctor [--env ID]`: says whether this machine, and an environment, are fit."""

from __future__ import annotations

import argparse

from rich.console import Console

from vecsess.cli.doctor.costs import measure_costs
from vecsess.cli.doctor.env_report import examine_env
from vecsess.cli.doctor.findings import FAIL, OK, WARN, Finding, findings_table
from vecsess.cli.doctor.machine import examine_machine
from vecsess.cli.figures import plural, seconds
from vecsess.cli.session_options import add_making_options, positive, require_module

UNFIT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add = parser.add_argument
    add("--env", metavar="ID", help="also examine this environment; also module:ID")
    add("-n", type=positive, default=16, metavar="N", help="environments to recommend for (16)")
    add_making_options(parser)


def run(options: argparse.Namespace) -> int:
    """Examines; returns 1 where something is a problem."""
    console = Console(highlight=False)
    console.print("[bold]machine[/bold]")
    findings = [*examine_machine(), _costs()]
    console.print(findings_table(findings))
    if options.env is not None:
        for module in options.preload:
            require_module(module)
        console.print(f"\n[bold]{options.env}[/bold]")
        with console.status("running the environment for some seconds"):
            found = examine_env(options.env, options.make_kwargs, options.preload, options.n)
        console.print(findings_table(found))
        findings += found
    console.print(_verdict(findings), style="bold")
    return UNFIT if any(finding.level == FAIL for finding in findings) else 0


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
