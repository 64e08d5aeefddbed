"""Train a small SentencePiece model, for work where Kyutai's own model file cannot be had.

The same as `hf-moshi-ttt train-tokenizer`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))
