"""What reaches a user: the sdist, the wheel built from it, installed and used elsewhere."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from shutil import copy2, copytree, ignore_patterns

import pytest

from vecsess._version import __version__

CHECKOUT = Path(__file__).resolve().parents[1]
LINKED = ("workers", "bridge", "bench")
READ = ("docs", "examples", "tests")  # folders that the tests read
RUN_TIMEOUT_S = 100

QUICK_START = """
from vecsess import VecCheckedSession

with VecCheckedSession("CartPole-v1", n=4, workers=2) as vec:
    vec.reset(seed=0)
"""

pytestmark = pytest.mark.skipif(
    not all((CHECKOUT / name).is_dir() for name in LINKED), reason="needs a checkout"
)


def run(*command: str | Path, cwd: Path) -> str:
    # Without PYTHONPATH and the like: they could show the checkout to the installed package.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    """Runs one hook of the build backend, in this environment: isolation would need a network."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    out.mkdir()
    run(sys.executable, "-c", code, cwd=source)
    (built,) = out.iterdir()
    return built


def modules_of_the_checkout() -> Iterator[str]:
    for folder, _, names in os.walk(CHECKOUT / "vecsess", followlinks=True):
        for name in names:
            if name.endswith(".py"):
                yield (Path(folder) / name).relative_to(CHECKOUT).as_posix()


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("sdist")
    source = tmp_path / "source"  # a copy, since a build writes beside its sources
    source.mkdir()
    for path in CHECKOUT.iterdir():
        if path.is_file():
            copy2(path, source)
    for name in ("vecsess", *LINKED, *READ):
        copytree(
            CHECKOUT / name, source / name, symlinks=True, ignore=ignore_patterns("__pycache__")
        )
    return build("sdist", source, tmp_path / "out")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    return build("wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "out")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel, which sees this one's packages, but not its vecsess."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, symlinks=True, with_pip=False)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--isolated", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", "--no-compile", wheel, cwd=home)
    # A directory named in a .pth comes last in sys.path, and its own .pth files, among them those
    # of an editable vecsess, are not read.
    site = Path(
        run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home
        ).strip()
    )
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "packages_of_the_tests.pth").write_text("\n".join(sorted(paths)) + "\n")
    return home


@pytest.mark.parametrize("name", LINKED)
def test_the_links_of_the_checkout_are_relative(name: str) -> None:
    link = CHECKOUT / "vecsess" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"


def test_the_sdist_carries_the_linked_folders_as_files(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = {name.partition("/")[2]: archive.getmember(name) for name in archive.getnames()}
    for name in LINKED:
        assert members[f"vecsess/{name}"].isdir()
        assert members[f"vecsess/{name}/__init__.py"].isfile()


def test_the_sdist_holds_what_its_tests_read(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    files = {
        path.relative_to(CHECKOUT).as_posix()
        for folder in READ
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {*files, "Makefile", "CHANGELOG.md", "README.md"} <= packed
    assert not [name for name in packed if name.endswith(".pyc")]


def test_the_wheel_does_without_pictures_and_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith((".png", ".md", ".ipynb"))]
    assert not [name for name in names if "test" in name.partition("/")[0]]


def test_vecsess_is_the_only_top_level_package(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"vecsess", f"vecsess-{__version__}.dist-info"}


def test_the_wheel_has_every_module_and_the_type_marker(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {*modules_of_the_checkout(), "vecsess/py.typed"} <= packed


def test_the_version_is_the_packages_own(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"vecsess-{__version__}.dist-info/METADATA").decode()
    assert Parser().parsestr(text)["Version"] == __version__


def test_the_import_is_of_the_installed_package(installed: Path, tmp_path: Path) -> None:
    code = "import vecsess, vecsess.workers as w; print(vecsess.__file__, w.__file__, sep='\\n')"
    for line in run(installed / "bin" / "python", "-c", code, cwd=tmp_path).splitlines():
        assert Path(line).is_relative_to(installed)


def test_the_console_script_starts(installed: Path, tmp_path: Path) -> None:
    assert "collect" in run(installed / "bin" / "vecsess", "--help", cwd=tmp_path)


def test_the_quick_start_runs_from_another_directory(installed: Path, tmp_path: Path) -> None:
    script = tmp_path / "quick_start.py"
    script.write_text(QUICK_START)
    run(installed / "bin" / "python", "-W", "error", script, cwd=tmp_path)
