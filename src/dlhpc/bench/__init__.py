"""Benchmarks: what is claimed is measured here, beside a bare loop or a peer, in one run."""
