"""The laws of file formats for the layouts of other networks that are read and written."""

from __future__ import annotations

from tests.laws.formats import FormatLaws


class TestOldDeepH(FormatLaws):
    kind = "deeph-old"


class TestDeePTB(FormatLaws):
    kind = "deeptb"
