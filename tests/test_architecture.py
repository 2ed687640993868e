"""The import rule and the budgets of the house, as tables."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("ali_enclaves_allocator/**/*.py"), *ROOT.glob("enclave_cli/**/*.py")])

MAY_IMPORT = {
    "ali_enclaves_allocator": {"server", "change", "kernel", "model", "enclave_cli.client"},
    "server": {"model"},
    "change": {"kernel", "model"},
    "kernel": {"model"},
    "model": set(),
    "enclave_cli": {"enclave_cli.client"},
    "enclave_cli.client": set(),
}
"""Which floors a floor may import beside itself: arrows point down only. The launcher knows nothing of the daemon."""

NO_EFFECTS = {"os", "subprocess", "socket", "asyncio", "time", "random", "pathlib", "threading"}
"""What the model does without: it has no I/O and no clock."""

LONGEST_MODULE = 300
LONGEST_FUNCTION = 40
VAGUE_NAMES = {"utils", "util", "helpers", "common", "manager", "base", "misc"}


def floor(module: str) -> str:
    """Return the floor that a dotted module name lies on."""
    package, _, rest = module.partition(".")
    name = rest.split(".")[0]
    if package == "ali_enclaves_allocator":
        return name if name in MAY_IMPORT else package
    return f"{package}.{name}" if name == "client" else package


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide the floor"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_arrows_point_down(path: Path) -> None:
    here = floor(dotted(path))
    for name in imports(ast.parse(path.read_text())):
        there = floor(name)
        if there in MAY_IMPORT and there != here and not name.endswith(".__version__"):
            assert there in MAY_IMPORT[here], f"{dotted(path)} ({here}) imports {name} ({there})"


@pytest.mark.parametrize("path", [p for p in MODULES if "/model/" in str(p)], ids=dotted)
def test_the_model_has_no_effects(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
    assert not roots & NO_EFFECTS


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_budgets(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    assert path.stem not in VAGUE_NAMES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


def test_the_varlink_server_knows_nothing_of_enclaves() -> None:
    server = ROOT / "ali_enclaves_allocator/server"
    for name in ("varlink.py", "wire.py", "contract.py", "introspection.py", "idl.py"):
        found = {i for i in imports(ast.parse((server / name).read_text())) if i.startswith("ali_enclaves_allocator")}
        assert all(".server." in i for i in found), f"{name} imports {found}"


def test_the_launcher_needs_the_standard_library_only() -> None:
    third_party = {"pydantic", "yaml", "pyudev", "psutil", "systemd"}
    for path in ROOT.glob("enclave_cli/*.py"):
        assert not {name.split(".")[0] for name in imports(ast.parse(path.read_text()))} & third_party


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/vm/scripts/*.sh")), ids=lambda path: path.name)
def test_a_script_that_writes_the_file_restores_it(path: Path) -> None:
    """The ring finds it too, when it compares what a script left behind; but that takes a guest."""
    text = path.read_text()
    assert "write_yaml" not in text or "restore_yaml" in text
