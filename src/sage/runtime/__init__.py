"""How a run is carried out: jobs driven through their steps, calls through the scheduler."""
