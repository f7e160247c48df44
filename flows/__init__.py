"""The night under Prefect; the only place that imports it."""

import logging
import os

# Our loggers go to the UI from flow runs, and nowhere but to the console from elsewhere.
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")

# Prefect's handlers take what the logger lets through: without a level of its own INFO would vanish without a word.
logging.getLogger("tributary_opt").setLevel(logging.INFO)
