"""What one worker process counts, logs and does ahead."""
