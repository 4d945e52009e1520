"""Bridges to training frameworks and clusters; each needs an extra of its name."""
