"""Programs that measure. Nothing here is part of the product, and no test asserts a speed."""
