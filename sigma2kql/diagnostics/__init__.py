"""What can be said about an input, where, and how it is shown: the ground that everything stands on."""
