"""What the market did: ticks in the source → market days → statistics of a window."""
