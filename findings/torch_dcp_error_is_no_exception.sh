#!/bin/sh
# Guess: except Exception catches what torch.distributed.checkpoint raises when a save or a load fails.
# Is: CheckpointException derives from BaseException alone: except Exception lets it pass, as it does
#   KeyboardInterrupt.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import sys

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

dcp.save({"weight": torch.zeros(4)}, checkpoint_id=f"{sys.argv[1]}/checkpoint", no_dist=True)
try:
    dcp.load({"weight": torch.zeros(2, 2)}, checkpoint_id=f"{sys.argv[1]}/checkpoint", no_dist=True)
except BaseException as error:
    raised = error
print(f"torch {torch.__version__}: {type(raised).__name__} has the bases {type(raised).__mro__[1:]}")
sys.exit(not (isinstance(raised, CheckpointException) and not isinstance(raised, Exception)))
PROGRAM
