"""Damaging valid checkpoints at random: whatever stands in a file, it is read or refused in order."""
