"""Measurements of pyqueue against a real server; see bench/README.md."""
