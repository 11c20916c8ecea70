"""`bench/RESULTS.md`: the page of figures, made from the JSON files of `bench all`."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from vecsess.bench.readings import Data
from vecsess.bench.report import shown
from vecsess.bench.runs import RUNS
from vecsess.bench.targets import TARGETS


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
    ]
    for table in document["tables"]:
        title, headings, rows = shown(table)
        blocks.append(f"**{title}**\n\n" + _markdown(headings, rows))
        if "advice" in table:
            blocks.append("\n".join(f"- {line}" for line in table["advice"]))
    return "\n\n".join(blocks)


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    one_line = [heading.replace("\n", " ") for heading in headings]
    lines = [one_line, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
