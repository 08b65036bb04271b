"""The job itself: its configuration, its graph, its command line."""
