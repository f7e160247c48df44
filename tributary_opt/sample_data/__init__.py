"""Sample markets with known parameters: what the demo shows, what tests check against, what benchmarks are timed on.

The truth is kept beside the data (`truth`, `truth.parquet`) and nothing here knows how a calibration would find it.
"""

from .catalogue import sample_markets
from .market import SampleMarket, reference_data, truth
from .ticks import SampleDay, generate, write_sample

__all__ = ["SampleDay", "SampleMarket", "generate", "reference_data", "sample_markets", "truth", "write_sample"]
