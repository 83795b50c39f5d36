"""What runs: pipelines as pure data. No asyncio, no engines, no I/O."""
