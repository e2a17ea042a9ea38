"""The law of file formats: what is written is read, the order of atoms is kept or told, damage is refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput, NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import NONE, SPINOR, SPINS, Spin
from nearsight.core.structure import Structure
from nearsight.core.units import HARTREE_EV
from nearsight.formats import registry
from nearsight.formats.format import Format
from tests.cases import structure

CELL = [[9.1, 0.3, 0.0], [0.0, 8.7, 0.1], [0.2, 0.0, 9.9]]
POSITIONS = [[1.43, 1.1, 0.0], [0.0, 0.1, 0.2], [-1.43, 1.1, 1 / 3]]


def calculation(spin: Spin, numbers: tuple[int, ...] = (8, 6, 1)) -> Calculation:
    """Random matrices of three atoms without symmetry, with everything else that a calculation may have."""
    s = structure(CELL, POSITIONS, list(numbers))
    h, d = (_matrix(s, spin, seed) for seed in (1, 2))
    return Calculation(
        s,
        overlap_of(_matrix(s, NONE, 0)),
        h,
        d,
        fermi_level=-0.123456789,
        electrons=11.5,
        energies={"total": -3.25, "Ekin": 2.5},
    )


def _matrix(s: Structure, spin: Spin, seed: int) -> BlockMatrix:
    layout = BlockLayout(Basis.of(s.numbers, {8: (0, 1, 2), 6: (0, 0, 1), 1: (0, 0, 1)}), Pairs.within(s, 11.0))
    dtype = torch.complex128 if spin is SPINOR else torch.float64
    values = torch.randn(spin.components, layout.size, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return BlockMatrix(layout, values, spin).hermitian()


def overlap_of(matrix: BlockMatrix) -> BlockMatrix:
    """A random hermitian matrix made that of functions with norm 1."""
    layout = matrix.layout
    diagonal = (layout.row == layout.column) & (layout.pairs.R[layout.pair] == 0).all(1)
    return matrix.with_values(torch.where(diagonal, 1.0, (0.1 * matrix.values).clamp(-0.9, 0.9)))


def same(a: BlockMatrix, b: BlockMatrix) -> bool:
    """Equal to rounding of the units, on the same pairs, with the same spin."""
    return a.spin is b.spin and float((a - b).values.abs().max()) < 1e-13


class FormatLaws:
    """Inherit, set `kind`, and say where a calculation is put; install a third party's format first (third_party.py)."""

    kind: str

    def place(self, folder: Path) -> Path:
        """A path in a folder that this format would write to."""
        return folder / "x"

    def damages(self, path: Path) -> Iterator[Callable[[], None]]:
        """Ways to damage what stands at a path, one at a time: by default each file cut in half, each file emptied."""
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            content = file.read_bytes()
            for broken in (content[: len(content) // 2], b""):
                yield lambda file=file, broken=broken: file.write_bytes(broken)
            file.write_bytes(content)

    @property
    def format(self) -> Format:
        return registry.load(self.kind)

    def spins(self) -> list[Spin]:
        return [s for s in SPINS.values() if s.name in self.format.holds]

    def written(self, c: Calculation, folder: Path) -> Calculation:
        registry.write(self.place(folder), c, self.kind)
        return registry.read(self.place(folder))

    def test_what_is_written_is_read(self, tmp_path):
        assert self.spins(), "a format holds matrices of some spin"
        for spin in self.spins():
            c = calculation(spin)
            found = self.written(c, tmp_path)
            for name in ("overlap", "hamiltonian", "density_matrix"):
                matrix = getattr(found, name)
                assert (matrix is not None) == (name in self.format.holds), f"{name}: `holds` says otherwise"
                assert matrix is None or same(matrix, getattr(c, name))
            assert torch.allclose(found.structure.positions, c.structure.positions, atol=1e-13, rtol=0)
            assert torch.allclose(found.structure.cell, c.structure.cell, atol=1e-13, rtol=0)
            assert found.structure.symbols == c.structure.symbols
            assert found.spin is spin
            assert found.fermi_level == pytest.approx(c.fermi_level, abs=1e-13)
            assert found.electrons == c.electrons
            assert found.basis.same_as(c.basis)

    def test_a_spinor_that_could_be_collinear_stays_one(self, tmp_path):
        if SPINOR not in self.spins():
            pytest.skip(f"{self.kind} holds no spinors")
        c = calculation(SPINS["collinear"])

        def lifted(m: BlockMatrix) -> BlockMatrix:
            up, down = m.values.to(torch.complex128)
            zero = torch.zeros_like(up)
            return BlockMatrix(m.layout, torch.stack([up, zero, zero, down]), SPINOR)

        c = replace(c, hamiltonian=lifted(c.hamiltonian), density_matrix=lifted(c.density_matrix))
        found = self.written(c, tmp_path)
        assert found.hamiltonian.spin is SPINOR
        assert same(found.hamiltonian, c.hamiltonian)

    def test_the_order_of_atoms_is_kept_or_told(self, tmp_path):
        for spin in self.spins():
            c = calculation(spin, (1, 8, 1))
            c = replace(c, forces=torch.arange(9, dtype=torch.float64).reshape(3, 3))
            found = self.written(c, tmp_path)
            back = found.in_original_order()
            assert back.structure.symbols == ["H", "O", "H"]
            assert torch.allclose(back.structure.positions, c.structure.positions, atol=1e-13, rtol=0)
            assert same(back.hamiltonian, c.hamiltonian)
            assert back.forces is None or torch.allclose(back.forces, c.forces, atol=1e-12)
            again = self.written(found, tmp_path)
            assert again.in_original_order().structure.symbols == ["H", "O", "H"]

    def test_what_is_not_known_stays_so(self, tmp_path):
        c = replace(calculation(NONE), density_matrix=None, fermi_level=None, electrons=None, energies={})
        found = self.written(c, tmp_path)
        assert (found.density_matrix, found.fermi_level, found.electrons) == (None, None, None)
        assert found.converged is None

    def test_the_structure_alone_is_the_calculations(self, tmp_path):
        found = self.written(calculation(NONE), tmp_path)
        alone = registry.read_structure(self.place(tmp_path))
        assert torch.equal(alone.positions, found.structure.positions)
        assert torch.equal(alone.numbers, found.structure.numbers)

    def test_it_is_found_by_what_it_is(self, tmp_path):
        self.written(calculation(NONE), tmp_path)
        place = self.place(tmp_path)
        assert registry.find(place).name == self.format.name
        assert registry.list_folders(tmp_path) == [place]
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "notes.txt").write_text("no calculation")
        for path in (tmp_path / "other", tmp_path / "other" / "notes.txt", tmp_path / "nowhere"):
            assert not self.format.recognises(path)

    def test_damage_is_refused_in_one_line(self, tmp_path):
        self.written(calculation(self.spins()[-1]), tmp_path)
        place, count = self.place(tmp_path), 0
        for damage in self.damages(place):
            damage()
            with pytest.raises(NearsightError) as refused:
                registry.read(place, self.kind)
            assert "\n" not in str(refused.value)
            count += 1
        assert count

    def test_a_failed_write_leaves_the_old_one(self, tmp_path):
        c = calculation(NONE)
        self.written(c, tmp_path)
        broken = replace(c, overlap=None, hamiltonian=None, density_matrix=None)
        with suppress(NearsightError):
            registry.write(self.place(tmp_path), broken, self.kind)
            return  # a format that stores a structure alone
        assert same(registry.read(self.place(tmp_path)).hamiltonian, c.hamiltonian)

    def test_matrices_that_cannot_be_are_refused(self, tmp_path: Path) -> None:
        sound = calculation(NONE)
        h, s = sound.require_hamiltonian(), sound.require_overlap()
        skew, huge, cosine = h.values.clone(), h.values.clone(), s.values.clone()
        skew[0, 1] += 0.04
        huge[0, int(h.layout.boundaries[h.pairs.on_site[0]])] = 1e28
        cosine[0, 1] = cosine[0, int(s.layout.transposed[1])] = 1.5
        place = self.place(tmp_path)
        for message, fields in (
            ("H is hermitian is broken", {"hamiltonian": h.with_values(skew)}),
            ("beyond bounds is broken", {"hamiltonian": h.with_values(huge)}),
            ("another matrix than S is broken", {"hamiltonian": s.with_values(s.values / HARTREE_EV)}),
            ("overlap of functions is broken", {"overlap": s.with_values(cosine)}),
        ):
            registry.write(place, replace(sound, density_matrix=None, **fields), self.kind)
            with pytest.raises(BadInput, match=message) as error:
                registry.read(place, self.kind)
            assert str(place) in str(error.value) and "\n" not in str(error.value)
            registry.read_unchecked(place, self.kind)
