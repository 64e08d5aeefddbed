"""Numbers below 0 that stand in rows of codes and labels and are no codes."""

NO_INPUT_ID = -1  # a code that is absent: zero embedding, no loss
FREE_ID = -2  # a code that the model is to choose itself, in streams alone
IGNORE_ID = -100  # a label without loss, as everywhere in transformers
