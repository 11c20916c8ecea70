"""The pages in docs/: fresh, true, and their links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import vecsess
from tests.documents import CHECKOUT, blocks, links, promised_output
from tests.programs import run

PAGES = sorted(f"docs/{page.name}" for page in (CHECKOUT / "docs").glob("*.md"))


def test_the_protocol_is_what_the_code_says_and_what_a_worker_answers(tmp_path: Path) -> None:
    run(CHECKOUT / "docs" / "make_protocol.py", "--check", cwd=tmp_path)


@pytest.mark.parametrize("part", ["conversation", "commands", "diagram"])
def test_a_stale_protocol_is_noticed(part: str, tmp_path: Path) -> None:
    program, page = tmp_path / "make_protocol.py", tmp_path / "protocol.md"
    program.write_text((CHECKOUT / "docs" / "make_protocol.py").read_text())
    head, mark, rest = (CHECKOUT / "docs" / "protocol.md").read_text().partition(f"<!-- {part}:")
    page.write_text(head + mark + rest.replace("Reset", "Resett", 1))
    done = run(program, "--check", cwd=tmp_path, code=1)
    assert "stale" in done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (CHECKOUT / page).parent
    missing = [link for link in links(page) if not (folder / link.partition("#")[0]).exists()]
    assert not missing


SNIPPETS = [
    pytest.param(code, id=f"{page}-{number}")
    for page in ("faq", "policies")
    for number, code in enumerate(blocks(f"docs/{page}.md", "python"))
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_each_recipe_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    script = tmp_path / "recipe.py"
    script.write_text(code)
    printed = run(script, cwd=tmp_path).stdout
    missing = [text for text in promised_output(code) if text not in printed]
    assert not missing, printed


def test_the_readme_leads_to_every_page() -> None:
    assert {f"docs/{page.name}" for page in (CHECKOUT / "docs").glob("*.md")} <= set(
        links("README.md")
    )


def test_each_deed_of_a_hostile_worker_has_its_test() -> None:
    text = (CHECKOUT / "docs" / "faults.md").read_text()
    named = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", text)
    assert len(named) > 15
    for name, file in named:
        assert f"def {name}(" in (CHECKOUT / file).read_text()


def test_the_faq_has_its_recipes() -> None:
    assert len(blocks("docs/faq.md", "python")) == 12


def test_the_api_names_all_that_is_public() -> None:
    documented = re.findall(r"^::: (\S+)$", (CHECKOUT / "docs/index.md").read_text(), re.MULTILINE)
    homes = {name: f"{getattr(vecsess, name).__module__}.{name}" for name in public_names()}
    missing = [name for name, home in homes.items() if home not in documented]
    assert all(homes[name].startswith("vecsess.errors.") for name in missing), missing
    assert "vecsess.errors" in documented


def public_names() -> set[str]:
    return set(vecsess.__all__) - {"__version__"}


@pytest.mark.skipif(
    not importlib.util.find_spec("mkdocstrings"), reason="needs pip install '.[docs]'"
)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    run("-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path, cwd=CHECKOUT)
    page = (tmp_path / "index.html").read_text()
    assert 'id="vecsess.session.vector.VecCheckedSession.step_checked"' in page
    assert "&gt;&gt;&gt;" in page


def test_the_page_on_policies_has_its_parts() -> None:
    assert len(blocks("docs/policies.md", "python")) == 6
