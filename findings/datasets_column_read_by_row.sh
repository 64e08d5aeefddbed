#!/bin/sh
# Guess: iterating dataset["n"] reads the column and then loops over a list.
# Is: the column of datasets 5 is lazy and reads row by row: some hundred times slower than dataset["n"][:].
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    datasets==5.2.0 pyarrow==26.0.1 dill==0.4.1 multiprocess==0.70.19 pandas==3.1.1 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import sys
import time

import datasets
import pyarrow

rows = datasets.Dataset(pyarrow.table({"n": list(range(20_000))}), fingerprint="rows")


def seconds(read):
    begin = time.perf_counter()
    values = read()
    return time.perf_counter() - begin, values


(by_row, one), (at_once, other) = seconds(lambda: list(rows["n"])), seconds(lambda: list(rows["n"][:]))
print(f"datasets {datasets.__version__}: 20,000 values in {by_row:.3f} s by iterating, {at_once:.4f} s with [:]")
sys.exit(not (one == other and by_row > 20 * at_once))
PROGRAM
