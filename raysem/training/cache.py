"""A cache bounded in bytes, for several threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

MIB = 1 << 20

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class LeastRecentlyUsed(Generic[KeyT, ValueT]):
    """A cache bounded in bytes, for several threads: a value is made once, however many ask for it at a time."""

    def __init__(self, max_bytes: int, *, keep_larger: bool = False):
        self._max_bytes, self._num_bytes, self._keep_larger = max_bytes, 0, keep_larger
        self._values: OrderedDict[KeyT, tuple[ValueT, int]] = OrderedDict()
        self._making: dict[KeyT, threading.Lock] = {}
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def get(self, key: KeyT, make: Callable[[], ValueT], size_bytes: Callable[[ValueT], int]) -> ValueT:
        """The value of `key`, made when it is not there.

        A value larger than the bound is returned but not kept; with `keep_larger` it is kept alone, until the next.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._values:
                    return self._values[key][0]
            try:
                value = make()
            finally:
                with self._lock:
                    self._making.pop(key, None)
            with self._lock:
                size = size_bytes(value)
                if (size <= self._max_bytes or self._keep_larger) and key not in self._values:
                    self._values[key] = (value, size)
                    self._num_bytes += size
                    while self._num_bytes > self._max_bytes and len(self._values) > self._keep_larger:
                        self._num_bytes -= self._values.popitem(last=False)[1][1]
            return value
