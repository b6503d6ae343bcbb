"""The words everybody uses: values without behaviour that could wait, fail or surprise.

Nothing here imports another room, reads a clock or touches the outside.
"""
