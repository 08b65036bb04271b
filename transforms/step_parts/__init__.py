"""What the steps share of Beam."""
