"""Sets of tasks for agents: what they hold, and the formats they are read from."""
