"""Atoms that move: relaxation and dynamics on forces of any calculator, resumable at any point."""
