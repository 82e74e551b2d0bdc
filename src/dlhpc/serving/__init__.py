"""Serving: an ASGI application of guarded handlers, a micro-batcher, and the supervisor that runs them on Ray Serve."""
