"""The bytes of a model from several members at once: decided purely, done by a thin shell."""
