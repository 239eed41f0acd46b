"""The vocabulary: nouns, states, errors and the seams; standard library only."""
