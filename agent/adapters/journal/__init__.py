"""A TinyDB storage that survives power loss."""

from agent.adapters.journal.storage import RESERVE, JournalStorage
from agent.adapters.journal.tables import JournalDB

__all__ = ["RESERVE", "JournalDB", "JournalStorage"]
