"""Where messages are kept: `SqliteStore`, the default, and `MemoryStore`, for tests and the simulation.

Both keep the contract of `gateway.ports.Store`; one suite, `tests/contracts`, runs over both.
"""

from gateway.stores.memory import MemoryStore
from gateway.stores.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore"]
