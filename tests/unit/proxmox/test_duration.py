from contextlib import suppress

import pytest
from holdfast.coordinator.proxmox.duration import SpanError, parse_span
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2),
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        (" 2s 2 s 2", 6),
        ("1h 30min", 5400),
        ("1h30min", 5400),
        ("1M", 30.44 * 86400),
        ("1y 12month", 365.25 * 86400 + 12 * 30.44 * 86400),
        ("55s500ms", 55.5),
        ("1w ", 604800),
    ],
)
def test_a_span_adds_up_to_seconds(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "h", "5 parsecs", "-5s", "1.5h", "5H", "5\n", "9" * 30, "٣s"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(SpanError):
        parse_span(text)


@given(st.text(st.sampled_from("0123456789 smhdwMyµinec-."), max_size=12) | st.text())
def test_the_parser_raises_nothing_but_its_own_error(text: str) -> None:
    with suppress(SpanError):
        assert parse_span(text) >= 0
