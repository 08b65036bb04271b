"""A model in memory: its numbers, its devices, its batches."""
