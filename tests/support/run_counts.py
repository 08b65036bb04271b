"""The counts of a run as run.json has them."""

COUNTS = ("found", "skipped", "embedded", "failed", "gone", "pruned")


def run_counts(**counts: int) -> dict[str, int]:
    """All of them; those that are not given are 0."""
    assert counts.keys() <= set(COUNTS)
    return dict.fromkeys(COUNTS, 0) | counts
