"""Fit a log-mel codec on a folder of recordings and save it for `AutoModel.from_pretrained`.

The same as `hf-moshi-ttt fit-codec`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))
