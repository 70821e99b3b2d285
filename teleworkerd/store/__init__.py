"""Job records in SQLite, on a thread of their own."""

from teleworkerd.store.database import JobRecord, StoreError
from teleworkerd.store.jobstore import JobStore


__all__ = ["JobRecord", "JobStore", "StoreError"]
