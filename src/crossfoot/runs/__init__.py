"""The folder of a run: who may use it, its attempts, how it ended, where the next attempt begins."""
