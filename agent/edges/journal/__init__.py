"""A TinyDB storage that survives power loss."""

from agent.edges.journal.storage import RESERVE, JournalStorage
from agent.edges.journal.tables import JournalDB

__all__ = ["RESERVE", "JournalDB", "JournalStorage"]
