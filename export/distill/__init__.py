"""Trains small models: the demo family, and drafters distilled from a target (its answers and its distributions)."""
