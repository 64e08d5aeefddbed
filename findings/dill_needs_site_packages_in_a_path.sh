#!/bin/sh
# Guess: what pip installs into a folder (--target, as for container images) works from there, whatever its name.
# Is: Dataset.from_dict of datasets raises PicklingError, unless the folder's path has "site-packages" in it: dill, with
#   which datasets hashes a table, knows installed modules by that word or by the interpreter's own folder, and pickles
#   what is in others by its content, here pyarrow.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/packages" \
    datasets==5.2.0 pyarrow==26.0.1 dill==0.4.1 multiprocess==0.70.19 pandas==3.1.1 numpy==2.4.6
cat > "$folder/program.py" << 'PROGRAM'
import pickle
import warnings

import datasets

warnings.simplefilter("ignore")
try:
    print(f"datasets {datasets.__version__}: {datasets.Dataset.from_dict({'n': [1, 2]}).num_rows} rows")
except pickle.PicklingError as error:
    print(f"datasets {datasets.__version__}: PicklingError: {error}")
PROGRAM
cd "$folder"
elsewhere=$(PYTHONPATH="$folder/packages" ${PYTHON:-python3} program.py)
mv packages site-packages
usual=$(PYTHONPATH="$folder/site-packages" ${PYTHON:-python3} program.py)
echo "in packages: $elsewhere"
echo "the same folder as site-packages: $usual"
case "$elsewhere" in *PicklingError*) ;; *) exit 1 ;; esac
case "$usual" in *"2 rows"*) ;; *) exit 1 ;; esac
