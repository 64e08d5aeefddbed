"""Special values below 0 in rows of codes and labels."""

NO_INPUT_ID = -1  # a code that is absent: zero embedding, no loss
FREE_ID = -2  # a code that the model chooses, in streams only
IGNORE_ID = -100  # a label without loss, as everywhere in transformers
