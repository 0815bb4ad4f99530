from itertools import pairwise

from holdfast.coordinator.proxmox import sections
from hypothesis import given
from hypothesis import strategies as st

LINES = st.lists(
    st.sampled_from(["dir: local", "\tpath /a", "  key", "", "   ", "#c", "  # c", "0", "nonsense", "a:b: c", "x:y\r"])
    | st.text(st.characters(exclude_characters="\n"), max_size=12),
    max_size=20,
)


def read(*lines: str) -> sections.SectionFile:
    return sections.read("\n".join(lines))


def test_only_an_empty_line_ends_a_section() -> None:
    file = read("dir: one", "\tpath /a", "# comment", "  # indented comment", "\tshared", "", "dir: two")
    assert [(s.id, s.line, s.end) for s in file.sections] == [("one", 1, 6), ("two", 7, 8)]
    assert [(e.line, e.key, e.value) for e in file.sections[0].entries] == [(2, "path", "/a"), (5, "shared", None)]


def test_a_line_of_blanks_or_a_second_header_does_not_end_a_section() -> None:
    file = read("dir: one", "   ", "nfs: two", "\tpath /b")
    assert [s.id for s in file.sections] == ["one"]
    assert [finding.line for finding in file.sections[0].ignored] == [2, 3]
    assert file.sections[0].entries[0].key == "path"


def test_a_line_of_just_zero_ends_a_section_as_in_perl() -> None:
    assert [s.id for s in read("dir: one", "\tpath /a", "0", "dir: two").sections] == ["one", "two"]


def test_the_type_is_lowercased_and_may_touch_the_id() -> None:
    assert [(s.type, s.id) for s in read("DIR:one", "", "a:b: c").sections] == [("dir", "one"), ("a:b", "c")]


def test_carriage_returns_are_white_space_and_no_empty_line() -> None:
    file = read("dir: one\r", "\tpath /a\r", "\r", "dir: two\r")
    assert [s.id for s in file.sections] == ["one"]
    assert file.sections[0].entries[0].value == "/a"


def test_a_non_breaking_space_is_no_white_space() -> None:
    assert read("dir: one", "\tpath\u00a0/a").sections[0].entries[0].key == "path\u00a0/a"


@given(LINES)
def test_reading_loses_no_line_and_never_fails(lines: list[str]) -> None:
    text = "\n".join(lines)
    file = sections.read(text)
    assert "\n".join(file.lines) == text
    ranges = [(s.line, s.end) for s in file.sections]
    assert ranges == sorted(ranges)
    assert all(first_end <= line for (_, first_end), (line, _) in pairwise(ranges))


def test_a_type_is_lowered_as_bytes_are() -> None:
    assert [s.type for s in read("DIR: a", "", "\u212aÄX: b").sections] == ["dir", "\u212aÄx"]
