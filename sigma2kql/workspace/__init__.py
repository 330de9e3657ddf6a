"""What a workspace really holds, and what that means for rules: live, blind or dead.

`profile` is the value and its file, `inspection` the bounded queries that make it and their answers, `liveness` judges
a query against it, `changes` compares two of them.
"""
