"""What every run needs, whatever the agent and the world: the loop, the run directory, logs, checkpoints, scores."""
