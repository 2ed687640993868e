"""CPU lists: the kernel's own examples, what is refused and how, and the way there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ali_enclaves_allocator.model import cpus
from ali_enclaves_allocator.model.placement import MachineTooSmall

NUMBERS = st.integers(0, cpus.MAX_CPUS - 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("\n", ()),
        ("0\n", (0,)),
        ("0-3,6,8-9", (0, 1, 2, 3, 6, 8, 9)),
        ("8-9,6,0-3,2", (0, 1, 2, 3, 6, 8, 9)),
        ("5-5", (5,)),
        ("8191", (8191,)),
        (" 2-3, 6-7 ", (2, 3, 6, 7)),
        (",1,,2,", (1, 2)),
        ("0-7:2/4", (0, 1, 4, 5)),
        ("0-1023:2/256", (0, 1, 256, 257, 512, 513, 768, 769)),  # from the comment of bitmap_parselist()
        ("9-38:4/10", (9, 10, 11, 12, 19, 20, 21, 22, 29, 30, 31, 32)),  # likewise
        ("1-5:3/3", (1, 2, 3, 4, 5)),
        ("0-7:0/4", ()),
    ],
)
def test_parse(text: str, expected: tuple[int, ...]) -> None:
    assert cpus.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x", '"x" is not a CPU number or range; wanted a list such as 2-3,6-7'),
        ("1-", '"1-" is not a CPU number or range; wanted a list such as 2-3,6-7'),
        ("2 - 3", '"-" is not a CPU number or range; wanted a list such as 2-3,6-7'),
        ("-3", '"-3" is not a CPU number or range; wanted a list such as 2-3,6-7'),
        ("012", '"012" is not a CPU number or range; wanted a list such as 2-3,6-7'),
        ("٣", '"٣" is not a CPU number or range; wanted a list such as 2-3,6-7'),
        ("all", '"all" is not a CPU number or range; wanted a list such as 2-3,6-7'),
        ("1:1/2", '"1:1/2" is not a CPU number or range; wanted a list such as 2-3,6-7'),
        ("x" * 99, f'"{"x" * 40}" is not a CPU number or range; wanted a list such as 2-3,6-7'),
        ("7-6", '"7-6" runs backwards; did you mean 6-7?'),
        ("8192", "8192 is too high; the highest CPU of any kernel is 8191"),
        ("0-4000000000", "4000000000 is too high; the highest CPU of any kernel is 8191"),
        ("9" * 9999, f"{'9' * 20} is too high; the highest CPU of any kernel is 8191"),
        ("0-7:5/4", '"0-7:5/4" takes 5 of every 4 CPUs; wanted a part of at least one'),
        ("0-7:0/0", '"0-7:0/0" takes 0 of every 0 CPUs; wanted a part of at least one'),
        ("0-7:2/1", '"0-7:2/1" takes 2 of every 1 CPU; wanted a part of at least one'),
    ],
)
def test_refuse(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        cpus.parse(text)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [((), ""), ((3,), "3"), ((2, 3), "2-3"), ((7, 2, 3, 6, 2), "2-3,6-7"), ((0, 2, 4), "0,2,4")],
)
def test_format(numbers: tuple[int, ...], expected: str) -> None:
    assert cpus.format(numbers) == expected


def test_one_is_told_as_one() -> None:
    assert [cpus.named(some) for some in ([], [3], [3, 2])] == ["no CPUs", "CPU 3", "CPUs 2-3"]
    assert [cpus.are(some) for some in ([3], [3, 2])] == ["CPU 3 is", "CPUs 2-3 are"]
    assert [cpus.counted(number) for number in (0, 1, 2)] == ["0 CPUs", "1 CPU", "2 CPUs"]
    assert ": 1 CPU online here, at least" in str(MachineTooSmall(1, 2))


@given(st.sets(NUMBERS, max_size=40) | st.sets(st.integers(0, 20)))
def test_there_and_back(numbers: set[int]) -> None:
    text = cpus.format(numbers)
    assert cpus.parse(text) == tuple(sorted(numbers))
    assert cpus.format(cpus.parse(f"{text}\n")) == text


@given(st.sets(st.integers(0, 20)))
def test_shortest(numbers: set[int]) -> None:
    regions = cpus.format(numbers).split(",") if numbers else []
    assert len(regions) == sum(number - 1 not in numbers for number in numbers)


@given(first=st.integers(0, 40), length=st.integers(1, 60), group=st.integers(1, 70), data=st.data())
def test_stride_as_the_kernel_fills_it(first: int, length: int, group: int, data: st.DataObject) -> None:
    used = data.draw(st.integers(0, group))
    last = first + length - 1
    expected = {
        start + offset for start in range(first, last + 1, group) for offset in range(min(last - start + 1, used))
    }
    assert cpus.parse(f"{first}-{last}:{used}/{group}") == tuple(sorted(expected))


@given(st.text() | st.text("0123456789-,:/ \nN"))
def test_any_text_is_a_list_or_a_sentence(text: str) -> None:
    try:
        numbers = cpus.parse(text)
    except ValueError as error:
        assert len(str(error)) < 150
    else:
        assert numbers == tuple(sorted(set(numbers)))
        assert all(0 <= number < cpus.MAX_CPUS for number in numbers)
