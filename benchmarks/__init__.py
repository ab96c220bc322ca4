"""Figures that the documentation quotes, made by the scripts here."""
