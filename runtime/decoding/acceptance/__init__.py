"""Acceptance rules: which drafted tokens stand, and the one token more that every step yields."""
