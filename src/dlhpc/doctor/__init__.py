"""Checks of the machine: what is wrong, and how to mend it."""
