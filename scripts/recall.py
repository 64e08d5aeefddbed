"""Train small models from scratch on a task that only a memory solves, and say which of them solve it.

The same as `hf-moshi-ttt recall`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))
