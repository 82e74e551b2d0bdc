"""The model registry: versions named by what they are, verified whenever they are read."""
