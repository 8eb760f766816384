"""How graphs are changed: rules that match and record, and one rewriter that edits.

A rule never touches the graph. It looks at a node, says what it found, and records the nodes that
should stand in its place; the `Rewriter` alone inserts, renames and removes, and the `Ledger`
numbers what it did.
"""
