#!/bin/sh
# Guess: in NumPy's format a column of float64 is float64 however it is read, and one of int64 with a missing value is
#   float64 with NaN, as in pandas.
# Is: one row gives float64, several rows give float32, also of int64 where one of them has no value: 36,000.1234567 s is
#   36,000.125, and 864,000,001 samples (ten hours) are 864,000,000 in every row that is read beside an empty one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    datasets==5.2.0 pyarrow==26.0.1 dill==0.4.1 multiprocess==0.70.19 pandas==3.1.1 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys

import datasets
import pyarrow

table = pyarrow.table({"start_sec": [36_000.1234567, 1.0, 2.0], "samples": [864_000_001, 5, None]})
rows = datasets.Dataset(table, fingerprint="rows").with_format("numpy")
one, two, three = rows[0], rows[:2], rows[:]
print(f"datasets {datasets.__version__}: {rows.features}")
print(f"the first row alone: {one['start_sec']!r}, {one['samples']!r}")
print(f"the first of two: {two['start_sec'][0]!r}, {two['samples'][0]!r}")
print(f"the first of three, the last without samples: {three['start_sec'][0]!r}, {three['samples'][0]:.0f}")
sys.exit(
    not (
        one["start_sec"] == 36_000.1234567
        and two["start_sec"][0] == three["start_sec"][0] == 36_000.125
        and two["samples"][0] == one["samples"] == 864_000_001
        and int(three["samples"][0]) == 864_000_000
    )
)
PROGRAM
