"""A static site of rules: a page a rule, overviews, feeds; files that any host serves, or the disk itself.

Place in the flow: above api, proof and coverage, below the command, which hands it a function that writes. Invariant:
what a rule says is text on every page: it chooses no path, opens no element, starts no script; and the same input
gives the same bytes.
"""
