"""Optimizers: one rule each (rules.py), run by numpy, JAX (flax_optimizers.py) and torch (torch_optimizers.py)."""
