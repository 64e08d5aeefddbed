"""Train TTT-Moshi from a YAML file, changed by `key=value`; also under `accelerate launch` and torchrun.

The same as `hf-moshi-ttt train`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))
