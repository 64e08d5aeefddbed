"""Run the whole product on real audio, offline: data, interrupted training, fine-tuning, evaluation, speech out.

The same as `hf-moshi-ttt demo`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))
