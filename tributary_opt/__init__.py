"""Optimal execution schedules for every market of a QuestDB, one night at a time."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tributary-opt")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
