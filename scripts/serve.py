"""Talk to a model: a server with a page for browsers, and Kyutai's protocol for their clients.

The same as `hf-moshi-ttt serve`.
"""

import sys

from hf_moshi_ttt.commands.console import main_of_script

if __name__ == "__main__":
    sys.exit(main_of_script(__file__))
