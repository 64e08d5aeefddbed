#!/bin/sh
# Guess: where the Hub cannot be reached, an OSError is raised, as by requests (ConnectionError) and for HTTP errors.
# Is: the error of the HTTP library comes through: `except (OSError, HfHubHTTPError)` does not catch it.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    huggingface_hub==2.4.0
PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

try:
    huggingface_hub.HfApi(endpoint="http://127.0.0.1:9").model_info("owner/name")  # nobody listens there
except Exception as error:
    found = type(error)
print(f"huggingface_hub {huggingface_hub.__version__}: {found.__module__}.{found.__qualname__}")
print(f"an OSError: {issubclass(found, OSError)}, a HfHubHTTPError: {issubclass(found, HfHubHTTPError)}")
print(f"HfHubHTTPError is an OSError: {issubclass(HfHubHTTPError, OSError)}")
sys.exit(issubclass(found, OSError) or not issubclass(HfHubHTTPError, OSError))
PROGRAM
