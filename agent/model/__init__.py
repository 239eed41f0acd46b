"""The vocabulary: values, states, errors and ports. Uses the standard library only."""
