"""Which next, where, and whether: pure decisions. No asyncio, no clock, no unseeded randomness, no I/O."""
