"""What guesses ahead. A drafter is one new file with one class that satisfies ``Drafter``."""
