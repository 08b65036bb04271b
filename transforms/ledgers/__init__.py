"""What earlier runs did, and what is therefore left to do."""
