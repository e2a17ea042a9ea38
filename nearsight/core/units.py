"""Physical constants, once. Inside: Hartree and Bohr; on disk and on the command line: eV and angstrom.

Source: CODATA 2018 (https://physics.nist.gov/cuu/Constants/), the set that the reference calculations were written with.
Programs that carry their own constants are listed by name, so that `io/` can undo them exactly.
"""

HARTREE_EV = 27.211386245988  # 1 Ha in eV
BOHR_ANG = 0.529177210903  # 1 Bohr in angstrom
RYDBERG_EV = HARTREE_EV / 2  # 1 Ry in eV
BOLTZMANN_HA = 3.1668115634556e-06  # k_B in Ha/K
HARTREE_BOHR3_GPA = 29421.02648438959  # 1 Ha/Bohr^3 in GPa
AMU_ME = 1822.888486209  # 1 dalton in electron masses
ATOMIC_VELOCITY_M_S = 2.18769126364e6  # 1 Bohr Ha / hbar in m/s
LIGHT_AU = 137.035999084  # speed of light in Bohr Ha / hbar, the inverse of the fine-structure constant
DEBYE_AU = 0.3934302695  # 1 Debye in e Bohr
