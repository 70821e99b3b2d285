"""Job records in SQLite, on a thread of their own."""

from teleworkerd.store.database import JobRecord, StoreError
from teleworkerd.store.eventlog import EventLog
from teleworkerd.store.jobstore import JobStore


__all__ = ["EventLog", "JobRecord", "JobStore", "StoreError"]
