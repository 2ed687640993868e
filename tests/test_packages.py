"""The packages as files: two builds are the same, tell nothing of where they were built, and please the linters."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from ali_enclaves_allocator import __version__
from ali_enclaves_allocator.change import ledger

REPO = Path(__file__).resolve().parents[1]
KINDS = ("deb", "rpm")


@dataclass(frozen=True)
class Built:
    """The packages of one tree."""

    tree: Path
    deb: Path
    rpm: Path

    @property
    def source(self) -> Path:
        """The source package."""
        return self.rpm.with_name(self.rpm.name.replace("x86_64.rpm", "src.rpm"))

    def unpack(self, kind: str, directory: Path) -> Path:
        """Unpack a package, scripts and all, and return the directory."""
        if kind == "deb":
            run("dpkg-deb", "--raw-extract", self.deb, directory)
        else:
            directory.mkdir()
            run("sh", "-c", 'cd "$1" && rpm2cpio "$2" | cpio --quiet -id', "sh", directory, self.rpm)
        return directory


def run(*command: str | Path, **environment: str) -> str:
    """Run a command, which must succeed, and return what it prints."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{command}: exit status {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def built(tree: Path, umask: int = 0o022, **environment: str) -> Built:
    """Build the packages of a tree."""
    command = 'umask "$1"; shift; "$@"'
    build = tree / "packaging" / "build"
    deb, rpm = (run("sh", "-c", command, "sh", f"{umask:o}", build, kind, **environment).strip() for kind in KINDS)
    return Built(tree, Path(deb), Path(rpm))


@pytest.fixture(scope="session")
def here() -> Built:
    """Return the packages of this tree."""
    return built(REPO)


@pytest.fixture(scope="session")
def elsewhere(here: Built, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return the packages of a copy, built from nothing but the same wheels: other path, time, user's settings."""
    tree = tmp_path_factory.mktemp("elsewhere") / "a-tree-at-quite-another-path"
    tree.mkdir()
    for name in (*BUILT_FROM, ".cache/packages"):
        if (REPO / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "venv-*", "built-*", "scratch-*", "lock")
            shutil.copytree(REPO / name, tree / name, ignore=ignore)
        else:
            shutil.copy(REPO / name, tree / name)
    run("chmod", "--recursive", "go=", tree)
    commit = run("git", "-C", REPO, "log", "-1", "--format=%ct").strip()
    return built(tree, umask=0o077, SOURCE_DATE_EPOCH=commit, TZ="Asia/Kathmandu", LC_ALL="C", PYTHONHASHSEED="7")


BUILT_FROM = re.findall(r"^inputs=\((.*)\)$", (REPO / "packaging" / "build").read_text(), re.MULTILINE)[0].split()


@pytest.mark.parametrize("kind", ["deb", "rpm", "source"])
def test_two_builds_give_the_same_bytes(here: Built, elsewhere: Built, kind: str) -> None:
    one, other = getattr(here, kind), getattr(elsewhere, kind)
    assert one != other
    assert one.read_bytes() == other.read_bytes(), f"compare: diffoscope {one} {other}"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_tells_where_it_was_built(elsewhere: Built, tmp_path: Path, kind: str) -> None:
    root = elsewhere.unpack(kind, tmp_path / kind)
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.suffix == ".pyc" for path in files)
    assert any(path.suffix == ".so" for path in files)
    found = [path for path in files if b"a-tree-at-quite-another-path" in path.read_bytes()]
    assert not found
    assert not [path for path in root.rglob("*") if path.is_symlink() and "another-path" in str(path.readlink())]


@pytest.mark.parametrize("kind", KINDS)
def test_every_module_is_compiled_and_never_checked_again(here: Built, tmp_path: Path, kind: str) -> None:
    site = here.unpack(kind, tmp_path / kind) / "usr/lib/ali-enclaves/lib/python3.11/site-packages"
    modules = list(site.rglob("*.py"))
    assert len(modules) > 200
    for module in modules:
        compiled = module.parent / "__pycache__" / f"{module.stem}.cpython-311.pyc"
        assert compiled.read_bytes()[4:8] == b"\1\0\0\0", compiled  # hash-based, unchecked (PEP 552)


def test_settings_are_the_operators(here: Built) -> None:
    settings = {f"/etc/ali-enclaves/{path.name}" for path in (REPO / "etc" / "ali-enclaves").iterdir()}
    assert set(run("dpkg-deb", "--info", here.deb, "conffiles").split()) == settings
    flags = run("rpm", "-qp", "--queryformat", "[%{FILEFLAGS:fflags} %{FILENAMES}\n]", here.rpm)
    assert {line.split()[1] for line in flags.splitlines() if line.startswith("cn ")} == settings


def test_the_packages_have_the_programs_version(here: Built) -> None:
    assert run("dpkg-deb", "--field", here.deb, "Version").strip() == __version__
    assert run("rpm", "-qp", "--queryformat", "%{VERSION}", here.rpm) == __version__


def test_the_packages_know_the_format_of_the_ledger() -> None:
    script = (REPO / "packaging" / "scriptlets" / "installing").read_text()
    assert f"\nunderstands={ledger.VERSION}\n" in script


def test_lintian(here: Built) -> None:
    assert not run("lintian", "--allow-root", "--fail-on", "error,warning", here.deb)


def test_rpmlint(here: Built) -> None:
    said = run("rpmlint", "--config", REPO / "packaging" / "rpmlint.toml", here.rpm, here.source)
    assert " 0 errors, 0 warnings" in said, said
