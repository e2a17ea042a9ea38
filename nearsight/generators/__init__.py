"""Structures made from structures, or from elements: one generator a file, found by the registry's group `generators`."""
