"""Operators for agents: tools and calls, which tool, in what order, whether at all, and what was said before."""
