"""Whether the memory pays: plans of rungs, their runs, the gap that each arm closes, verdicts, tables and figures."""
