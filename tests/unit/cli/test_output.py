from holdfast.coordinator.cli.output import clean, duration, plain, size, span
from hypothesis import given
from hypothesis import strategies as st


def test_columns_are_aligned_and_an_empty_cell_is_a_dash() -> None:
    assert plain(("A", "LONG"), [("x", ""), ("long one", "y")]) == "A         LONG\nx         -\nlong one  y\n"


@given(st.text())
def test_no_text_of_a_record_moves_the_cursor_or_begins_a_line(text: str) -> None:
    assert clean(text).isprintable()
    if text.isprintable():
        assert clean(text) == text


def test_durations_and_sizes_read_as_people_say_them() -> None:
    assert [duration(s) for s in (None, 0.4, 59, 60, 3599, 7384, 90000)] == [
        "-", "0s", "59s", "1m 00s", "59m 59s", "2h 03m", "1d 1h",
    ]  # fmt: skip
    assert [span(s) for s in (5, 60, 90, 900, 7200, 86400, 901)] == ["5s", "60s", "90s", "15m", "2h", "1d", "901s"]
    assert [size(b) for b in (None, 512, 1536, 2**30, 2**60)] == ["-", "512 B", "1.5 KiB", "1.0 GiB", "1024.0 PiB"]
