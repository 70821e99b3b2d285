"""Job records in SQLite, on a thread of their own."""

from teleworkerd.store.database import StoreError
from teleworkerd.store.eventlog import EventLog
from teleworkerd.store.jobstore import JobStore
from teleworkerd.store.records import JobRecord


__all__ = ["EventLog", "JobRecord", "JobStore", "StoreError"]
