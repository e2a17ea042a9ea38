"""Large eigenproblems H(k) c = E S(k) c: sparse factorisation, states near an energy, levels counted by inertia."""
