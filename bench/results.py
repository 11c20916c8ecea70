"""`bench/RESULTS.md`: the page of figures, made from the JSON files of `bench all`."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vecsess.bench.readings import OF_SLICES, Data, median_of_slices
from vecsess.bench.runs import RUNS
from vecsess.bench.targets import TARGETS

Column = tuple[str, Callable[[Data], str]]

_MIB = 1024 * 1024


def load_runs(folder: Path) -> dict[str, Data]:
    """Reads the JSON files of the runs, by name.

    Raises:
        ValueError: there is none.
    """
    paths = {name: folder / f"{name}.json" for name in RUNS}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    if not found:
        raise ValueError(
            f"expected JSON files of `bench all` in {folder}, such as {next(iter(RUNS))}.json; "
            "there is none"
        )
    return found


def write_results(folder: Path, out: Path) -> None:
    """Writes the page, and copies the plots beside it.

    Args:
        folder: with the JSON files, and `plots/` in it.
        out: the page; its plots go to `plots/` in the same folder.

    Raises:
        ValueError: there is nothing to write about.
    """
    runs = load_runs(folder)
    sources = sorted((folder / "plots").rglob("*.png"))
    out.parent.mkdir(parents=True, exist_ok=True)
    plots = [Path("plots") / path.relative_to(folder / "plots") for path in sources]
    for source, plot in zip(sources, plots, strict=True):
        goal = out.parent / plot
        goal.parent.mkdir(parents=True, exist_ok=True)
        if goal.resolve() != source.resolve():
            shutil.copyfile(source, goal)
    out.write_text(page(runs, [plot.as_posix() for plot in plots]))


def page(runs: dict[str, Data], plots: Sequence[str]) -> str:
    """Returns the page as Markdown.

    Args:
        runs: documents as `--json` writes them, by name.
        plots: paths from the page.
    """
    blocks = [_head(runs), _targets(runs)]
    blocks += [_run(name, document) for name, document in runs.items()]
    if plots:
        images = "\n\n".join(f"![{Path(plot).stem}]({plot})" for plot in plots)
        blocks.append(f"## Plots\n\n{images}")
    return "\n\n".join(blocks) + "\n"


def _head(runs: dict[str, Data]) -> str:
    documents = list(runs.values())
    machine = documents[0]["machine"]
    loads = [document["machine"]["load_average"] for document in documents]
    versions = ", ".join(
        f"{package} {version}" for package, version in documents[0]["versions"].items() if version
    )
    return f"""# Results

Made by `python -m vecsess.bench results` from the files of the runs below, as `python -m
vecsess.bench all --out DIR` makes them; nothing here is written by hand. Contenders run in
interleaved rounds, each in a process of its own; figures are medians over rounds, and a ratio is
the median of each round's ratio. The limit is the cores times the rate of one bare environment;
bare loops on all cores show what of it these cores give at once. Checks, log and checksums are on.
Why some targets are not met: [where the time goes](../docs/profile.md).

- machine: {machine["cpu"]}, {machine["cores"]} cores, {machine["kernel"]}, {machine["python"]}
- load average as the runs began: {min(loads):.1f} to {max(loads):.1f}
- versions: {versions}"""


def _targets(runs: dict[str, Data]) -> str:
    rows = []
    for target in TARGETS:
        value = target.read(runs[target.run]["tables"]) if target.run in runs else None
        if value is None:
            cells = ("not measured", "")
        else:
            cells = (target.write(value), "yes" if target.met(value) else "**no**")
        rows.append((target.what, target.bound, *cells))
    return "## Targets\n\n" + _markdown(("what", "target", "measured", "met"), rows)


def _run(name: str, document: Data) -> str:
    command = shlex.join(["python", "-m", "vecsess.bench", *RUNS[name]])
    plan = document["plan"]
    blocks = [
        f"## {name}",
        f"`{command}`\n\n{plan['rounds']} rounds of {plan['seconds']:g} s each.",
        *(block for table in document["tables"] for block in _table(table)),
    ]
    return "\n\n".join(blocks)


def _table(table: Data) -> Iterator[str]:
    if "layouts" in table:
        yield from _tuning(table)
        return
    columns = _START if "limit_steps_per_s" not in table else _THROUGHPUT
    known = {name for row in table["rows"] for name in _own_figures(row)}
    figures = [name for name in OF_SLICES if name in known]
    title = f"{table['case']['name']}, N = {table['n']}"
    if table.get("baseline") and len(table["rows"]) > 1:
        title += f"; times {table['baseline']}"
    headings = ["contender", *(heading for heading, _ in columns), *figures]
    rows = []
    for row in table["rows"]:
        own = _own_figures(row)
        cells = [cell(row) if not row["problem"] else "" for _, cell in columns]
        if row["problem"]:
            cells[0] = row["problem"]
        rows.append([row["label"], *cells, *(own.get(name, "-") for name in figures)])
    yield f"**{title}**\n\n" + _markdown(headings, rows)


def _tuning(found: Data) -> Iterator[str]:
    names = ("workers", "pace", "steps_per_s", "cores_used")
    shares = ("environments", "waiting", "copying", "policy")
    rows = [
        (
            str(each["workers"]),
            each["pace"],
            f"{each['steps_per_s']:,.0f}",
            f"{each['cores_used']:.2f}",
            *(f"{each[share]:.0%}" for share in shares),
        )
        for each in found["layouts"]
    ]
    yield f"**{found['case']['name']}, N = {found['n']}**\n\n" + _markdown((*names, *shares), rows)
    yield "\n".join(f"- {line}" for line in found["advice"])


def _own_figures(row: Data) -> dict[str, str]:
    """Returns what a contender measured of itself, written, by heading."""
    found = {}
    for heading, (figure, form) in OF_SLICES.items():
        value = median_of_slices(row, figure)
        if value is not None:
            found[heading] = format(value, form)
    return found


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _column(heading: str, name: str, form: str, scale: float = 1.0) -> Column:
    def cell(row: Data) -> str:
        value = row.get(name)
        return _number(None if value is None else value * scale, form)

    return heading, cell


_START_S = _column("start s", "start_s", ".3f")
_MEMORY = _column("workers' PSS MiB", "pss_bytes", ".1f", 1 / _MIB)
_START = (_START_S, _column("processes", "processes", ".0f"), _MEMORY)
_THROUGHPUT = (
    _column("steps/s", "steps_per_s", ",.0f"),
    _column("times", "times_baseline", ".2f"),
    _column("share of the limit", "share_of_limit", ".1%"),
    _column("CPU s / 1M steps", "cpu_s_per_million_steps", ".2f"),
    _column("cores used", "cores_used", ".2f"),
    _START_S,
    _MEMORY,
)
