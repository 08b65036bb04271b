"""What was written, read back and searched."""
