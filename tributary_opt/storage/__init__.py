"""Where it lies: QuestDB, Parquet, releases, and the embedded server."""
