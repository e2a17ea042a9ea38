"""The dipole of the water molecule of bench/properties.py by PySCF, all electrons: the figure that stands beside ours.

pip install pyscf (into an environment of its own); python bench/pyscf_dipole.py
"""

from math import cos, radians, sin

from pyscf import dft, gto

half = radians(104.5) / 2
atoms = [("O", (0, 0, 0))] + [("H", (sign * 0.957 * sin(half), 0, 0.957 * cos(half))) for sign in (1, -1)]
for basis in ("aug-cc-pvtz", "aug-cc-pvqz"):
    molecule = gto.M(atom=atoms, basis=basis, unit="Angstrom", verbose=0)
    field = dft.RKS(molecule)
    field.xc = "pbe"
    field.grids.level = 5
    field.kernel()
    x, y, z = field.dip_moment(unit="Debye", verbose=0)
    print(f"{basis}: {(x * x + y * y + z * z) ** 0.5:.4f} Debye, E = {field.e_tot:.6f} Ha")
