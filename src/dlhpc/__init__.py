"""dlhpc: one system that takes a deep-learning model from data to production."""
