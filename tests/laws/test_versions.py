"""Schema versions: absent is the first, a later one is refused in a line that says what is needed."""

import pytest

from nearsight.core.errors import BadInput
from nearsight.core.versions import checked_version


def test_what_states_no_version_is_the_first() -> None:
    assert checked_version(None, 3, "set") == 1
    assert [checked_version(n, 3, "set") for n in (1, 2, 3)] == [1, 2, 3]


def test_a_later_version_is_refused_in_one_line_that_says_which_nearsight() -> None:
    with pytest.raises(BadInput, match=r"^set needs Nearsight 7\.1 or later .*version 4.*up to 3.*pip install"):
        checked_version(4, 3, "set", "7.1")
    with pytest.raises(BadInput, match=r"^set needs a later Nearsight"):
        checked_version(4, 3, "set")


@pytest.mark.parametrize("found", ["2", 0, -1, 1.5, True, [1]])
def test_what_is_no_version_is_refused(found: object) -> None:
    with pytest.raises(BadInput, match="schema_version"):
        checked_version(found, 3, "set")
