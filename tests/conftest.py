"""Fixtures of every test."""

from tests.third_party import third_party

__all__ = ["third_party"]
