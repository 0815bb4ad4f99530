"""Reach: which kind of fault has struck at which step of the protocol. A cell at zero fails `make sim`, unless it is
listed here as impossible, with the reason."""

from collections import Counter
from collections.abc import Mapping

from .faults import KINDS, RBD_KINDS
from .schedule import RBD_STEPS, STEPS

CELLS = (
    *((kind, step) for step in STEPS for kind in KINDS),
    *((kind, step) for step in RBD_STEPS for kind in RBD_KINDS),
)
IMPOSSIBLE: Mapping[tuple[str, str], str] = {}
"""(kind, step) → why it cannot happen; `*` for any kind."""


def unreached(reached: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    """The cells that should have been reached and were not."""
    return [
        (kind, step)
        for kind, step in CELLS
        if not reached[kind, step] and (kind, step) not in IMPOSSIBLE and ("*", step) not in IMPOSSIBLE
    ]


def table(reached: Counter[tuple[str, str]]) -> str:
    """The tally, a step a line."""
    lines = []
    for step in (*STEPS, *RBD_STEPS):
        kinds = [kind for kind, its in CELLS if its == step]
        counts = [reached[kind, step] for kind in kinds]
        rarest = min(zip(counts, kinds, strict=True))
        lines.append(f"{step:<15} {sum(counts):>7} faults, rarest {rarest[1]} {rarest[0]}")
    return "\n".join(lines)
