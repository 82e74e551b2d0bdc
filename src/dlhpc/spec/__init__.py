"""Specs: what a run is. Frozen pydantic models without behaviour; load.py makes them from files."""
