"""The nouns that every stage takes and gives, and what can be said of them without a stage."""
