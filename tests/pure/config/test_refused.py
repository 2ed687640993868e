"""Files that are refused: each mistake at its place, in words that mend it."""

import pytest

from ali_enclaves_allocator.model.config import MAX_PROBLEMS, Config, ConfigInvalid
from tests.pure.config.stand import read, refusal


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("1G", 'the string "1G"'),
        ("1024 MiB", 'the string "1024 MiB"'),
        ("1,024", 'the string "1,024"'),
        ("１０", 'the string "１０"'),
        ('"1024"', 'the quoted string "1024"'),
        ("'1024'", 'the quoted string "1024"'),
        ('"\\e[31m"', 'the quoted string "\\x1b[31m"'),
        ("x" * 50, f'the string "{"x" * 40}…"'),
        ("|\n  1024", "a block of text"),
        ("1e3", "1e3, a floating point number"),
        ("1024.0", "1024.0, a floating point number"),
        (".5", ".5, a floating point number"),
        (".inf", ".inf, a floating point number"),
        ("012", "012, which a leading zero makes octal in YAML"),
        ("08", "08, which a leading zero makes octal in YAML"),
        ("0o17", "0o17, which a leading zero makes octal in YAML"),
        ("0x10", "0x10, a hexadecimal number"),
        ("0b11", "0b11, a binary number"),
        ("1_000", "1_000, a number with underscores"),
        ("+5", "+5, a number with a plus sign"),
        ("1:30", "1:30, a base-60 number in YAML"),
        ("yes", "yes, a boolean of YAML 1.1 alone"),
        ("On", "On, a boolean of YAML 1.1 alone"),
        ("false", "the boolean false"),
        ("~", "nothing"),
        ("null", "nothing"),
        ("''", 'the quoted string ""'),
        ("9999999999999999999", "9999999999999999999, a number of more than 18 digits"),
        ("9" * 5000, f"{'9' * 40}…, a number of more than 18 digits"),
        ("2026-01-01", 'the string "2026-01-01"'),
        ("[1024]", "a list"),
        ("{mib: 1024}", "nested keys"),
        ("*size", "the alias *size"),
        ("&size 1024", "a value with the anchor &size"),
        ('!!int "3"', "a value with the tag !!int"),
        ("! 3", "a value with the tag !"),
        ("!!python/object/apply:os.system [ls]", "a value with the tag !!python/object/apply:os.system"),
    ],
)
def test_no_whole_number(value: str, got: str) -> None:
    told = refusal(f"cpu_count: 2\nmemory_mib: {value}\n").splitlines()[0]
    assert told == f"allocator.yaml:2:13: memory_mib: must be a whole number of MiB, got {got}"


KEYS = ", ".join(Config.model_fields)
REFUSED = """
cpu_count: two
memory_mib: 1024
---
allocator.yaml:1:12: cpu_count: must be a whole number of CPUs, got the string "two"
    cpu_count: two
               ^
===
memory_mib: 1
cpu_count: 2
cpu_driver: kvm
offline: leased
hold_memory: yes
---
allocator.yaml:3:13: cpu_driver: must be sysfs or nitro_enclaves, got the string "kvm"
    cpu_driver: kvm
                ^
allocator.yaml:5:14: hold_memory: must be true or false, got yes, a boolean of YAML 1.1 alone
    hold_memory: yes
                 ^
===
memory_mib: 1
cpu_count: 2
hold_memory: True
offline: leased
cpu_driver: nitro_enclaves
---
allocator.yaml:3:14: hold_memory: got true, wanted false: with cpu_driver nitro_enclaves its launcher takes free pages
    hold_memory: True
                 ^
allocator.yaml:4:10: offline: got leased, wanted always: the CPUs of cpu_driver nitro_enclaves are always offline
    offline: leased
             ^
===
memory_mib: 1
cpu_count: 2
offline: leased
hold_memory: false
---
allocator.yaml:4:14: hold_memory: got false, wanted true: with offline leased there must be leases
    hold_memory: false
                 ^
===
memory_mib: 1G
cpu_cout: 2
max_enclaves: 0
hugepage_size: 4K
host_memory_mib: 63
cpu_count: 2
frobnicate: 1
memory_mib: 2048
---
allocator.yaml:1:13: memory_mib: must be a whole number of MiB, got the string "1G"
    memory_mib: 1G
                ^
allocator.yaml:2:1: cpu_cout: unknown key; did you mean cpu_count?
    cpu_cout: 2
    ^
allocator.yaml:3:15: max_enclaves: must be a whole number of enclaves, at least 1, got 0
    max_enclaves: 0
                  ^
allocator.yaml:4:16: hugepage_size: must be 2M or 1G, got the string "4K"
    hugepage_size: 4K
                   ^
allocator.yaml:5:18: host_memory_mib: must be a whole number of MiB, at least 64, got 63
    host_memory_mib: 63
                     ^
allocator.yaml:7:1: frobnicate: unknown key; known are KEYS
    frobnicate: 1
    ^
allocator.yaml:8:1: memory_mib: given again, first in line 1; keep one
    memory_mib: 2048
    ^
===
memory_mib: -1
cpu_count: 8193
---
allocator.yaml:1:13: memory_mib: must be a whole number of MiB, at least 1, got -1
    memory_mib: -1
                ^
allocator.yaml:2:12: cpu_count: must be a whole number of CPUs, at most 8192, got 8193
    cpu_count: 8193
               ^
===
memory_mib: 4294967297
cpu_count: 2
---
allocator.yaml:1:13: memory_mib: must be a whole number of MiB, at most 4294967296, got 4294967297
    memory_mib: 4294967297
                ^
===
memory_mib:
cpu_count: # two
---
allocator.yaml:1:12: memory_mib: must be a whole number of MiB, got nothing
    memory_mib:
               ^
allocator.yaml:2:11: cpu_count: must be a whole number of CPUs, got nothing
    cpu_count: # two
              ^
===
max_enclaves: 2
---
allocator.yaml:1:1: memory_mib: missing; wanted a whole number of MiB
allocator.yaml:1:1: cpu_count: missing, and cpu_pool too; wanted one of the two
===
memory_mib: 1024
cpu_count: 2
cpu_pool: 2-3
---
allocator.yaml:2:12: cpu_count: excludes cpu_pool; keep one of the two
    cpu_count: 2
               ^
===
memory_mib: one
cpu_pool: 3-2
cpu_count: two
---
allocator.yaml:1:13: memory_mib: must be a whole number of MiB, got the string "one"
    memory_mib: one
                ^
allocator.yaml:2:11: cpu_pool: "3-2" runs backwards; did you mean 2-3?
    cpu_pool: 3-2
              ^
allocator.yaml:3:12: cpu_count: excludes cpu_pool; keep one of the two
    cpu_count: two
               ^
===
memory_mib: 1024
cpu_pool: ""
---
allocator.yaml:2:11: cpu_pool: must be a CPU list such as 2-3,6-7, got the quoted string ""
    cpu_pool: ""
              ^
===
memory_mib: 1024
cpu_pool: [2, 3]
---
allocator.yaml:2:11: cpu_pool: must be a CPU list such as 2-3,6-7, got a list
    cpu_pool: [2, 3]
              ^
===
memory_mib: 1024
cpu_pool: 012
---
allocator.yaml:2:11: cpu_pool: "012" is not a CPU number or range; wanted a list such as 2-3,6-7
    cpu_pool: 012
              ^
===
memory_mib: 1024
cpu_pool: 0-4000000000
---
allocator.yaml:2:11: cpu_pool: 4000000000 is too high; the highest CPU of any kernel is 8191
    cpu_pool: 0-4000000000
              ^
===
memory_mib: 1024
cpu_count:
  of_the_pool: 2
max_enclaves: none
---
allocator.yaml:3:3: cpu_count: must be a whole number of CPUs, got nested keys
      of_the_pool: 2
      ^
allocator.yaml:4:15: max_enclaves: must be a whole number of enclaves, got the string "none"
    max_enclaves: none
                  ^
===
size: &size 1024
<<: *size
memory_mib: 1024
cpu_count: 2
---
allocator.yaml:1:1: size: unknown key; known are KEYS
    size: &size 1024
    ^
allocator.yaml:2:1: <<: merge keys are not taken; write each key out
    <<: *size
    ^
===
# only a comment
---
allocator.yaml:1:1: the file is empty; wanted lines of "key: value"
===
- memory_mib: 1024
---
allocator.yaml:1:1: wanted lines of "key: value", got a list
    - memory_mib: 1024
    ^
===
memory_mib:1024
cpu_count:2
---
allocator.yaml:1:1: wanted lines of "key: value", got the string "memory_mib:1024 cpu_count:2"
    memory_mib:1024
    ^
===
max_enclaves: 0
memory_mib: 1024
cpu_count:2
---
allocator.yaml:1:15: max_enclaves: must be a whole number of enclaves, at least 1, got 0
    max_enclaves: 0
                  ^
allocator.yaml:3:1: there is no ": " after this; wanted "key: value"
    cpu_count:2
    ^
===
memory_mib: 1024
  cpu_count: 2
---
allocator.yaml:2:12: a second ":", or none in the line before; wanted lines of "key: value", indented alike
      cpu_count: 2
               ^
===
  memory_mib: 1024
cpu_count: 2
---
allocator.yaml:2:1: unexpected text; wanted lines of "key: value", indented alike
    cpu_count: 2
    ^
===
memory_mib: "1024" MiB
---
allocator.yaml:1:20: unexpected text; wanted lines of "key: value", indented alike
    memory_mib: "1024" MiB
                       ^
===
memory_mib: 'x
cpu_count: 2
---
allocator.yaml:1:13: this quote is never closed
    memory_mib: 'x
                ^
===
{memory_mib: 1024,
 cpu_count: 2
---
allocator.yaml:1:1: this bracket is never closed
    {memory_mib: 1024,
    ^
===
memory_mib: @1024
---
allocator.yaml:1:13: not valid YAML: found character '@' that cannot start any token
    memory_mib: @1024
                ^
===
memory_mib: "\\UFFFFFFFF"
---
allocator.yaml:1:16: not valid YAML: a number is out of range
    memory_mib: "\\UFFFFFFFF"
                   ^
===
!!map
memory_mib: 1024
---
allocator.yaml:1:1: wanted lines of "key: value", got a value with the tag !!map
    !!map
    ^
===
&key memory_mib: 1024
---
allocator.yaml:1:1: a key must be one word, got a value with the anchor &key
    &key memory_mib: 1024
    ^
===
? [memory_mib]
: 1024
---
allocator.yaml:1:3: a key must be one word, got a list
    ? [memory_mib]
      ^
"""


@pytest.mark.parametrize("case", REFUSED.strip("\n").split("\n===\n"))
def test_refused(case: str) -> None:
    text, told = case.split("\n---\n")
    assert refusal(text + "\n") == told.replace("KEYS", KEYS)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", '1:1: the file is empty; wanted lines of "key: value"'),
        (b"---\n", '2:1: wanted lines of "key: value", got nothing'),
        (
            b"cpu_count: 2\n---\nmemory_mib: 1\n",
            "2:1: a second document starts here; wanted one\n    ---\n    ^",
        ),
        (
            b"cpu_count:\t2\n",
            "1:11: a tab cannot stand here; use spaces\n    cpu_count:\\t2\n              ^",
        ),
        (b"\tcpu_count: 2\n", "1:1: a tab cannot stand here; use spaces\n    \\tcpu_count: 2\n    ^"),
        (b"# \xc3\xa4\n# \xc3\xa4\xff\n", "2:4: byte 0xff is not UTF-8\n    # ä\\udcff\n       ^"),
        (b"\xff\xfem\0", "1:1: byte 0xff is not UTF-8\n    \\udcff\\udcfem\\x00\n    ^"),
        (b"a: 1\n\0", "2:1: control character U+0000 is not allowed\n    \\x00\n    ^"),
        (b"\x1b[31m: 1\n", "1:1: control character U+001B is not allowed\n    \\x1b[31m: 1\n    ^"),
        (b"a: 1\rb: 2\r", "1:5: control character U+000D is not allowed\n    a: 1\\rb: 2\n        ^"),
        (b"a: 1\xe2\x80\xa8", "1:5: control character U+2028 is not allowed\n    a: 1\\u2028\n        ^"),
        (b"#" * 65537, "1:1: the file is too large; wanted at most 64 KiB"),
    ],
)
def test_no_yaml(data: bytes, told: str) -> None:
    assert refusal(data) == f"allocator.yaml:{told}"


def test_crlf_and_byte_order_mark_keep_the_columns() -> None:
    told = refusal(b"\xef\xbb\xbfcpu_count: x\r\nmemory_mib: y\r\n")
    assert "allocator.yaml:1:12: cpu_count" in told
    assert "allocator.yaml:2:13: memory_mib" in told
    assert "\n    cpu_count: x\n               ^\n" in told


def test_long_line_is_cut_around_the_caret() -> None:
    told = refusal(f"{{memory_mib: 1,{' ' * 300}cpu_count: two,{' ' * 300}max_enclaves: 1}}")
    head, line, caret = told.splitlines()
    assert head.startswith("allocator.yaml:1:327: cpu_count: ")
    assert line.startswith("    … ")
    assert line.endswith(" …")
    assert len(line) < 120
    assert line[caret.index("^") :].startswith("two,")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("CPU_COUNT: 2", "CPU_COUNT: unknown key; did you mean cpu_count?"),
        ("Cpu-Pool: 2-3", "Cpu-Pool: unknown key; did you mean cpu_pool?"),
        ("hugepage_size: 1g", 'hugepage_size: must be 2M or 1G, got the string "1g"; did you mean 1G?'),
        ("hugepage_size: 2MB", 'hugepage_size: must be 2M or 1G, got the string "2MB"; did you mean 2M?'),
        ("offline: lease", 'offline: must be always or leased, got the string "lease"; did you mean leased?'),
        ("offline: no", "offline: must be always or leased, got no, a boolean of YAML 1.1 alone"),
    ],
)
def test_what_was_meant_is_guessed_however_it_was_written(text: str, meant: str) -> None:
    assert f"allocator.yaml:1:{1 if 'key' in meant else text.index(':') + 3}: {meant}" in refusal(text).splitlines()


def test_many_problems_are_counted() -> None:
    told = refusal("".join(f"key{number}: 1\n" for number in range(100)))
    assert told.count("\n    ^") == MAX_PROBLEMS
    assert told.endswith("allocator.yaml: and 82 more problems")


def test_what_is_missing_comes_last() -> None:
    """The status sentence is the first line: it must say that a key is misspelled, not that it is missing."""
    told = refusal("memory_mib: 64\ncpu_pol: 2-3\n").splitlines()
    assert told[0] == "allocator.yaml:2:1: cpu_pol: unknown key; did you mean cpu_pool?"
    assert told[-1] == "allocator.yaml:1:1: cpu_count: missing, and cpu_pool too; wanted one of the two"


def test_error_ends_with_the_outcome() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read("")
    assert str(caught.value).endswith("\nnothing was changed")
    assert caught.value.parameters()["problems"][0]["line"] == 1
