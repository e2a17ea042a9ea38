"""The cases of bench/kills.py."""
