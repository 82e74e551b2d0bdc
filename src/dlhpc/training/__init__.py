"""Training, whichever framework computes: the loop, its events, callbacks, checkpoints and run folders."""
