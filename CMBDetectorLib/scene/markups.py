"""The findings of a case as points: one list per marker class, because a list has one color."""
