"""The charge of a predicted cell, and with it its electrons: as asked for, as the input states, else that of the data."""

from __future__ import annotations

from dataclasses import dataclass

from nearsight.core.errors import BadInput
from nearsight.core.structure import Structure
from nearsight.learn.domain import Domain

_SAME = 1e-4  # [e]


@dataclass(frozen=True)
class ChargeState:
    """charge: of the cell [e], electrons: in it; None where nothing tells them.  warning: what is to be said of it."""

    charge: float | None
    electrons: float | None
    warning: str | None = None


def charge_state(
    domain: Domain | None, structure: Structure, neutral: float | None, recorded: float | None, asked: float | None
) -> ChargeState:
    """The charge state of a prediction.

    domain: of the model.  neutral: electrons of the neutral cell, if they are known.  recorded: the charge of the calculation
    that the structure comes from, if it says one; initial charges of the structure count as well.  asked: by the user [e].
    Raises BadInput where charges contradict each other, where none follows from the data, or is more than all electrons.
    """
    stated = recorded if structure.charges is None else float(structure.charges.sum())
    if asked is not None:
        charge, warning = asked, _beside(domain, structure, asked)
    elif stated is not None:
        charge, warning = stated, None
        _require_seen(domain, structure, stated)
    else:
        known = None if domain is None else domain.charge_of(structure)
        charge, warning = 0.0 if known is None else known, None
    if neutral is None and asked is not None:
        raise BadInput(
            f"how many electrons {structure.formula} has when neutral is not known, so that no charge can be given: train the "
            "model with data.species, or give the calculation folder its occupation"
        )
    if neutral is None:
        return ChargeState(stated, None, warning)
    if not charge < neutral:
        raise BadInput(
            f"a charge of {charge:+g} e leaves {structure.formula} no electrons: it has {neutral:g} when neutral"
        )
    return ChargeState(charge, neutral - charge, warning)


def _beside(domain: Domain | None, structure: Structure, asked: float) -> str | None:
    known = [] if domain is None else domain.charges_of(structure)
    if not known or any(abs(q - asked) < _SAME for q in known):
        return None
    return (
        f"the data have the charge {_listed(known)}, not {asked:+g} e: the Hamiltonian is that of the data's charge, filled "
        "with other electrons"
    )


def _require_seen(domain: Domain | None, structure: Structure, stated: float) -> None:
    known = [] if domain is None else domain.charges_of(structure)
    if known and not any(abs(q - stated) < _SAME for q in known):
        raise BadInput(
            f"{structure.formula} states a charge of {stated:+g} e, the model was trained on cells of {_listed(known)}: train "
            f"one on such cells, or give --charge {stated:g} to fill that Hamiltonian with other electrons"
        )


def _listed(charges: list[float]) -> str:
    return ", ".join(f"{q:+g}" if q else "0" for q in charges[:5]) + " e"
