"""What a layer of Moshi is made of, plain and with a depth axis, and the base class of every streaming state."""
