"""One folder of the cache as records of one type, with indexes. Guards invariant 7: bad input is contained.

A value that cannot be read is a problem of its own name; the record that was there before it stays in force until the
key is deleted.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Generic, TypeVar

from holdfast.coordinator.model.record import Record
from holdfast.coordinator.planning.desired import describe
from holdfast.coordinator.store.cache import Cache, Change
from pydantic import ValidationError

R = TypeVar("R", bound=Record)


class Index(Generic[R]):
    """Records by something in them."""

    def __init__(self, key: Callable[[R], Hashable]) -> None:
        self._key = key
        self._groups: defaultdict[Hashable, dict[str, R]] = defaultdict(dict)

    def get(self, value: Hashable) -> Mapping[str, R]:
        """Name → record, of all whose key is `value`; in no order."""
        return self._groups.get(value, {})

    def move(self, name: str, old: R | None, new: R | None) -> None:
        """A record has changed; only its table says so."""
        if old is not None:
            group = self._groups[self._key(old)]
            del group[name]
            if not group:
                del self._groups[self._key(old)]
        if new is not None:
            self._groups[self._key(new)][name] = new


class Table(Generic[R]):
    """Name (the key without the prefix) → record. Make it before the cache runs."""

    def __init__(self, cache: Cache, prefix: str, model: type[R]) -> None:
        self._prefix = prefix
        self._model = model
        self._records: dict[str, R] = {}
        self._problems: dict[str, str] = {}
        self._indexes: list[Index[R]] = []
        self._subscribers: list[Callable[[str, R | None, R | None], None]] = []
        cache.subscribe(prefix, self._follow)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[tuple[str, R]]:
        return iter(self._records.items())

    def get(self, name: str) -> R | None:
        """The record in force."""
        return self._records.get(name)

    @property
    def problems(self) -> Mapping[str, str]:
        """Name → why what is there now cannot be read."""
        return self._problems

    def index(self, key: Callable[[R], Hashable]) -> Index[R]:
        """Kept current from now on."""
        made = Index(key)
        for name, record in self._records.items():
            made.move(name, None, record)
        self._indexes.append(made)
        return made

    def subscribe(self, callback: Callable[[str, R | None, R | None], None]) -> None:
        """Call `callback` with name, old and new record at each change of what is in force; it must not raise."""
        self._subscribers.append(callback)

    def _follow(self, change: Change) -> None:
        name = change.key.removeprefix(self._prefix)
        old = new = self._records.get(name)
        self._problems.pop(name, None)
        if change.new is None:
            new = None
        else:
            try:
                new = self._model.model_validate_json(change.new.value)
            except ValidationError as error:
                self._problems[name] = describe(error)
        if new == old:
            return
        if new is None:
            del self._records[name]
        else:
            self._records[name] = new
        for index in self._indexes:
            index.move(name, old, new)
        for callback in self._subscribers:
            callback(name, old, new)
