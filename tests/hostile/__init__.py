"""Inputs from somebody else, mutated at random and read in a process with limits."""
