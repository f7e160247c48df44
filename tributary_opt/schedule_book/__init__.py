"""The reader that downstream systems use: one release at a time, from Parquet or QuestDB."""

from tributary_opt.schedule_book.book import ScheduleBook
from tributary_opt.schedule_book.grid import BookError
from tributary_opt.schedule_book.snapshot import ScheduleRefused

__all__ = ["BookError", "ScheduleBook", "ScheduleRefused"]
