"""Fuzzing of everything that reads bytes which it did not write."""
