"""Convert a checkpoint of any layout: to TTT-Moshi's own, to Kyutai's package, or to transformers' own Moshi.

The same as `hf-moshi-ttt convert`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))
