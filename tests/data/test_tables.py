"""Tables equal those of `Dataset.from_list`, also where dill does not know pyarrow as an installed package."""

import pickle
import re
from pathlib import Path

import dill
import pyarrow
import pytest
from datasets import Dataset, Features, Value
from datasets import List as ListFeature

from hf_moshi_ttt.data import tables
from hf_moshi_ttt.data.audio_feature import SeekingAudio
from hf_moshi_ttt.data.tables import dataset_of

FEATURES = Features(
    {
        "audio": SeekingAudio(),
        "codes": ListFeature(ListFeature(Value("int16"))),
        "words": ListFeature({"word": Value("string"), "start_sec": Value("float64")}),
        "snr": Value("float64"),
    }
)
ROWS = [
    {"audio": "a.wav", "codes": [[1, 2], [3, -1]], "words": [{"word": "so", "start_sec": 36_000.08}], "snr": None},
    {"audio": {"path": None, "bytes": b"b"}, "codes": [], "words": None, "snr": 1.5},
]


@pytest.fixture
def packages_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """dill as it is where `pip install --target` has put pyarrow into a folder of another name."""
    known = dill._dill._is_builtin_module
    monkeypatch.setattr(dill._dill, "_is_builtin_module", lambda module: known(module) and module is not pyarrow)


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
def test_tables_are_those_of_from_list(rows: list) -> None:
    ours, theirs = dataset_of(rows, FEATURES), Dataset.from_list(rows, features=FEATURES)
    assert ours.features == theirs.features == FEATURES
    assert ours.data.table == theirs.data.table
    assert list(ours) == list(theirs)


@pytest.mark.filterwarnings("ignore::dill.PicklingWarning")
@pytest.mark.usefixtures("packages_elsewhere")
def test_packages_may_lie_anywhere() -> None:
    with pytest.raises(pickle.PicklingError, match="MonthDayNano"):
        Dataset.from_list(ROWS, features=FEATURES)
    mapped = dataset_of(ROWS, FEATURES).map(lambda row: {"snr": 2.0}, features=FEATURES)
    assert mapped["snr"][:] == [2.0, 2.0]


def test_names_tell_contents_apart() -> None:
    changed = [ROWS[0], {**ROWS[1], "snr": 1.25}]
    names = [dataset_of(rows, FEATURES)._fingerprint for rows in (ROWS, [dict(row) for row in ROWS], changed)]
    assert names[0] == names[1] != names[2]
    other = Features({**FEATURES, "snr": Value("float32")})
    assert dataset_of(ROWS, other)._fingerprint != names[0]


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(KeyError, match="snr"):
        dataset_of([{name: ROWS[0][name] for name in FEATURES if name != "snr"}], FEATURES)
    with pytest.raises(pyarrow.ArrowInvalid, match="40000"):
        dataset_of([{**ROWS[0], "codes": [[40_000]]}], FEATURES)


def test_the_package_makes_its_tables_here() -> None:
    here = Path(tables.__file__)
    modules = [path for path in here.parents[1].rglob("*.py") if path != here]
    assert len(modules) > 100
    assert not [path.name for path in modules if re.search(r"Dataset\.from_(list|dict)\(", path.read_text())]
