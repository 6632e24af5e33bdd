"""Memories: `episodic` holds stores outside any network; nothing here knows an agent or a world."""
