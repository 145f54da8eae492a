"""The ways to decode that there are, one family of drafts per file."""
