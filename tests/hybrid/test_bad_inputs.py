"""Bad files as a user meets them: one error that names every place and says what to do there."""

from pathlib import Path

import pytest

from hybrid import Cohort, TableError

TABLE = """\
ID,TIME,AMT,CMT,EVID,DV,WT
1,0,100,1,1,.,70
1,4,.,2,0,3.1,70
1,2,.,2,0,4.0,70
2,0,-50,1,1,.,64
2,1,.,2,0,BLQ,64
2,2,50,7,1,.,64
2,3h,.,2,0,2.2,64
3,0,1oo,gutt,1,.,82
3,1,.,2,0,1.0,heavy
"""

MESSAGE = """\
the table has 8 problem(s); row 1 is the first below the header:
  - row 3 (id 1): `time` 2 comes after 4 (row 2); sort each subject by time
  - row 4 (id 2): `amt` is -50; a dose cannot be negative
  - row 5 (id 2): `dv` is 'BLQ'; give a number, or leave it empty
  - row 6 (id 2): `cmt` is 7, an unknown compartment; name its state in `compartments` (known: 1 → `gut`, 2 → `central`)
  - row 7 (id 2): `time` is '3h'; give a number
  - row 8 (id 3): `amt` is '1oo'; give a number, or leave it empty
  - row 8 (id 3): `cmt` is gutt, an unknown compartment (did you mean `gut`?); name its state in `compartments` \
(known: 1 → `gut`, 2 → `central`)
  - row 9 (id 3): `WT` is 'heavy'; give a number, or leave it empty"""


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "cohort.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_table_with_mistakes_of_every_kind_is_refused_once_with_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(TableError) as error:
        Cohort.from_table(written(tmp_path, TABLE), compartments=("gut", "central"), covariates=("WT",))
    assert str(error.value) == MESSAGE


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id,time,dv\n1,0,5\n1,1,2,5\n", "Expected 3 fields in line 3, saw 4"),
        ("", "No columns to parse"),
        ("id,time,dv\n1,0,5 µg\n".encode("latin-1"), "can't decode byte"),
    ],
    ids=["decimal comma", "empty", "not UTF-8"],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, content: str | bytes, expected: str) -> None:
    with pytest.raises(TableError, match=r"cohort\.csv: .*give comma-separated UTF-8 text") as error:
        Cohort.from_table(written(tmp_path, content))
    assert expected in str(error.value)
