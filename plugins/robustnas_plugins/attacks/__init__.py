"""Attacks: factories of foolbox attacks, one file each."""
