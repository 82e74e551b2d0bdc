"""Monitoring: what a running system tells about itself."""
