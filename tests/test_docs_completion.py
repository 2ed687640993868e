"""Completion in bash and zsh: the shells themselves complete, and offer what the programs take."""

import json
import os
import pty
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from ali_enclaves_allocator import cli
from enclave_cli import cli as launcher
from tests.test_docs_pages import commands

ROOT = Path(__file__).parent.parent
PROGRAMS = {"ali-enclaves-allocator": commands(cli._parser()), "enclave-cli": commands(launcher._parser())}

OFFERED = {
    **{f"{program} ": set(names) for program, names in PROGRAMS.items()},
    **{f"{program} --": {"--help", "--version"} for program in PROGRAMS},
    **{f"{p} {name} --": {"--help", *options} for p, names in PROGRAMS.items() for name, options in names.items()},
    "enclave-cli run-enclave --accel ": {"auto", "kvm", "tcg"},
    "enclave-cli run-enclave --eif-path ": {"a.eif", "images"},
    "enclave-cli run-enclave --memory 64 --config ": {"b.json", "images"},
    "enclave-cli run-enclave --enclave-name ": set(),
    "enclave-cli describe-eif --eif-path a": {"a.eif"},
    "enclave-cli terminate-enclave --enclave-id ": {"i-0-encweb", "i-0-encdb"},
    "enclave-cli terminate-enclave --enclave-name w": {"web"},
    "enclave-cli console --enclave-name ": {"web", "db"},
    "ali-enclaves-allocator check c": {"c.yaml"},
    "ali-enclaves-allocator metrics --output b": {"b.json"},
}
"""What a line is completed with."""

BASH = r"""
source "$1"
read -ra COMP_WORDS <<<"$2"
[[ $2 != *' ' ]] || COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
read -r _ _ function program < <(complete -p "${COMP_WORDS[0]}")
"$function" "$program" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""

ZSH = r"""
fpath=($completions $fpath)
autoload -U compinit && compinit -u -D
zstyle ':completion:*' verbose no
compadd() {
    local -a found
    [[ " $* " == *" -"(O|A|D)" "* ]] || { builtin compadd -O found "$@"; print -rl -- $found >>$offered; }
    builtin compadd "$@"
}
next() { zle kill-whole-line; print -- --end >>$offered; print "line" "done" >/dev/tty }
leave() { exit }
zle -N next
zle -N leave
bindkey '^X' next '^Y' leave
"""
"""What an interactive zsh reads before lines are typed: it writes every match that is offered to a file."""


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with some files, and an enclave-cli that knows two enclaves."""
    enclaves = [{"EnclaveName": name, "EnclaveID": f"i-0-enc{name}", "ProcessID": 1} for name in ("web", "db")]
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "enclave-cli"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = describe-enclaves ] && cat <<'E'\n{json.dumps(enclaves, indent=2)}\nE\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    here = tmp_path / "here"
    (here / "images").mkdir(parents=True)
    for name in ("a.eif", "b.json", "c.yaml"):
        (here / name).touch()
    monkeypatch.chdir(here)
    return tmp_path


def in_bash(line: str) -> set[str]:
    """Have the function called that completes a line."""
    file = ROOT / "completions/bash" / line.split(maxsplit=1)[0]
    done = subprocess.run(["bash", "-c", BASH, "-", str(file), line], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize("line", OFFERED)
def test_bash_completes(line: str, somewhere: Path) -> None:
    assert in_bash(line) == OFFERED[line] | ({"--help", "--version"} if line.count(" ") == 1 else set())


def test_zsh_completes(somewhere: Path) -> None:
    setup, offered = somewhere / "setup", somewhere / "offered"
    setup.write_text(f"completions={ROOT}/completions/zsh offered={offered}\n{ZSH}")
    type_into_zsh(f"source {setup}\n\x18", *(f"{line}\t\x18" for line in OFFERED))
    _, *found = [set(text.split()) for text in offered.read_text().split("--end\n")]
    told = {line: {word.rstrip("/") for word in words} for line, words in zip(OFFERED, found, strict=False)}
    assert told == OFFERED


def type_into_zsh(*lines: str) -> None:
    """Type into a zsh that sits at a terminal, each line when the one before is done."""
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe("zsh", ["zsh", "-f", "-i"], os.environ | {"TERM": "dumb", "HISTFILE": ""})
    for line in lines:
        os.write(terminal, line.encode())
        shown = b""
        while b"line done" not in shown:
            shown += os.read(terminal, 65536)
    os.write(terminal, b"\x19")
    with suppress(OSError):  # the terminal ends with its last process
        while os.read(terminal, 65536):
            pass
    os.close(terminal)
    os.waitpid(pid, 0)
