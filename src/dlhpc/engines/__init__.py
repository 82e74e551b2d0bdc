"""Learners and predictors, once per framework. Only dlhpc.backends imports them."""
