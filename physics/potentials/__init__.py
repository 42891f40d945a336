"""Potentials: curves, random fields, interpolants, expressions, textbook potentials and closed forms."""
