"""The pure hearts under virtual time: whole clusters in one process, without a network or a clock."""
