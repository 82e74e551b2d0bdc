"""Data, in numpy alone: both frameworks see the same bytes."""
